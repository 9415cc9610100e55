"""What instances listen with."""
import socketserver


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 256

    def handle_error(self, request, client_address):
        """A connection that ends early is no news here."""
