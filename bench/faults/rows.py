"""The rows in which instances suffer: what happens to them, and what must hold."""
import signal
import time

from . import network
from .report import few_errors, no_errors, once_ejected, only_in_flight
from .run import Row


def kill(run):
    """SIGKILL to one of three, again and again; its registration stays, and it is back after a second."""
    for name in run.each():
        with run.fault(name) as fault:
            fault.gone = run.fleet.kill(name)
            time.sleep(1)
            run.fleet.start(name)
        time.sleep(1)


def hang(run):
    """SIGSTOP to one of three for eight seconds."""
    for name in run.each():
        with run.fault(name):
            run.fleet.signal(name, signal.SIGSTOP)
            time.sleep(8)
            run.fleet.signal(name, signal.SIGCONT)
        recover(run, name)


def restart(run):
    """All of them, one after the other: deregister where there is a registry, SIGTERM, start, register."""
    for _ in range(run.times):
        for name in run.fleet.names:
            with run.fault(name):
                run.proxy.leave(name)
                run.fleet.terminate(name)
                run.fleet.start(name)
                run.proxy.join(name)
            time.sleep(0.5)


def unavailable(run):
    """Every instance answers 503."""
    with run.fault("all"):
        time.sleep(20)


def harmed_wire(mode):
    def faults(run):
        """One of three misbehaves on its wire for eight seconds."""
        for name in run.each():
            with run.fault(name):
                run.wires.set(name, mode)
                time.sleep(8)
                run.wires.set(name, "ok")
            recover(run, name)
    return faults


def harmed_packets(share):
    def faults(run):
        """So many of a hundred packets to and from one of three are dropped, for eight seconds."""
        dropped = 0
        for name in run.each():
            with run.fault(name):
                network.drop(run.fleet.addresses[name][0], share)
                time.sleep(8)
                dropped += network.heal()
            recover(run, name)
        run.notes.append(f"{dropped} packets dropped")
    return faults


def recover(run, name):
    """Six seconds without a fault; of zoogate also until it has let the instance in again, which it owes us in ten."""
    ended = time.monotonic()
    time.sleep(6)
    if run.proxy.name != "zoogate":
        return
    while time.monotonic() - ended < 20:
        states = {instance["id"]: instance["state"] for instance in run.proxy.instances()}
        if states[name] == "up":
            break
        time.sleep(0.1)
    took = time.monotonic() - ended
    if took > 11:
        run.broken.append(f"{name} was let in {took:.1f} s after its fault")


def kill_bounds(result):
    yield from no_errors(result)
    yield from only_in_flight(result)


def restart_bounds(result):
    yield from no_errors(result, result.row.mix.split(","))


def budget(result):
    """What goes out again is a fifth of what is asked; the budget of each worker has a floor beside its share."""
    if result.load * len(result.sent) > 1.2 * len(result.sent) + 20:
        yield f"instances that answer 503 got {result.load:.2f} times their load"


PEAK_EWMA = {"service": 'balance = "peak_ewma"'}
ROWS = [
    Row("kill", kill, kill_bounds, times=20),
    Row("stop", hang, once_ejected, times=5, base=20),
    Row("stop-hedge", hang, once_ejected, times=5, base=20, settings={"route": 'hedge = "50ms"'}),
    Row("restart", restart, restart_bounds, times=10, mix="GET,POST,RPC"),
    Row("unavailable", unavailable, budget, times=1, base=0, status=503),
    Row("reset", harmed_wire("reset"), once_ejected, times=5, base=20, wires=True),
    Row("half-close", harmed_wire("half-close"), once_ejected, times=5, base=20, wires=True),
    Row("drip", harmed_wire("drip"), once_ejected, times=5, base=20, wires=True),
    # Who answers late is not ejected, and round robin knows nothing of how long an answer takes.
    Row("slow", harmed_wire("slow"), few_errors, times=5, base=20, wires=True),
    Row("slow-peak-ewma", harmed_wire("slow"), once_ejected, times=5, base=20, wires=True, settings=PEAK_EWMA),
    Row("loss", harmed_packets(10), few_errors, times=5, base=20, network=True),
    Row("loss-peak-ewma", harmed_packets(10), once_ejected, times=5, base=20, network=True, settings=PEAK_EWMA),
    Row("partition", harmed_packets(100), once_ejected, times=5, base=20, network=True),
]
