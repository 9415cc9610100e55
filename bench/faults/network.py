"""What the kernel can do to packets, by nft, in a network namespace of our own: nothing outside is touched.

Packets are dropped as they arrive, so that whoever sent them cannot tell."""
import os
import subprocess

TABLE = "inet faults"
# Where a gateway finds the ensemble that it is to be cut off from, and nobody else does.
GATEWAY = "127.0.0.2"


def enter():
    """Whether this process may break its network. `faults.sh` starts it in a new network namespace and says so."""
    if os.environ.get("FAULTS_NAMESPACE") != "own":
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    nft(f"add table {TABLE}", f"add chain {TABLE} in {{ type filter hook input priority 0; }}")
    return True


def nft(*lines):
    subprocess.run(["nft", "-f", "-"], input="\n".join(lines), text=True, check=True)


def drop(host, share=100):
    """Drops so many of a hundred packets to and from an address of this machine."""
    some = "" if share == 100 else f"numgen random mod 100 < {share} "
    nft(*(f"add rule {TABLE} in ip {side} {host} {some}counter drop" for side in ("daddr", "saddr")))


def heal():
    """Drops nothing any more; says how many packets were."""
    listed = subprocess.run(["nft", "list", "table", *TABLE.split()], capture_output=True, text=True, check=True).stdout
    nft(f"flush chain {TABLE} in")
    return sum(int(line.split(" packets ")[1].split()[0]) for line in listed.splitlines() if " packets " in line)
