//! Connections toward instances: dialling, HTTP/1.1 and HTTP/2 clients, one pool a worker.
