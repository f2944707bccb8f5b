"""Loaded by every Python that is started with this folder on PYTHONPATH: it reaches this machine
and no other.

The interpreter itself tells of every connection and every look-up of a name (audit events), whoever
asks for it. What would leave the machine is refused, and written with who asked to the file that
FEWSTEP_NETWORK_LOG names.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import traceback

# Event -> which of its arguments is the address or the name.
EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}


def refuse_other_machines(event: str, arguments: tuple) -> None:
    if event not in EVENTS or is_here(arguments[EVENTS[event]]):
        return
    with open(os.environ["FEWSTEP_NETWORK_LOG"], "a", encoding="utf-8") as log:
        log.write(
            f"{event} {arguments[EVENTS[event]]!r}\n{''.join(traceback.format_stack()[:-1])}\n"
        )
    raise ConnectionRefusedError(
        f"{event} {arguments[EVENTS[event]]!r}: the tests let nothing out of this machine"
    )


def is_here(address: object) -> bool:
    """Whether an address or a name is this machine. An address is a tuple, or the path of a local
    socket.
    """
    if isinstance(address, tuple):
        address = address[0]
    elif isinstance(address, str | bytes) and os.sep in os.fsdecode(address):
        return True
    if address is None:
        return True
    name = os.fsdecode(address) if isinstance(address, str | bytes) else str(address)
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name in ("", "localhost")


sys.addaudithook(refuse_other_machines)
