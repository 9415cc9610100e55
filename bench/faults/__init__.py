"""Faults of instances, wires, networks and ensembles under a constant load: what clients notice, and what is lost or done twice.

`python -m faults --help` runs it; `bench/faults.sh` is the command, which also gets what it needs.

| module | holds |
| --- | --- |
| `instance` | one instance, a process of its own, which writes down what it serves |
| `load` | the clients, one process: a constant rate that no slow answer holds back |
| `history` | the check of what clients sent and got against what instances served |
| `fleet`, `wire`, `network`, `zookeeper` | the instances as processes, and what can be done to them and to what lies between |
| `proxies` | zoogate, HAProxy and nginx in front of a fleet |
| `rows`, `ensemble` | the rows: what goes wrong, and what must hold then |
| `report` | figures of a run, and the table |
"""
