"""The four upstream systems, simulated faithfully: for the demo, the tests and the benchmarks.

Each is a real HTTP server that behaves as its vendor's documents and measurements say, can be told to misbehave, and
keeps the history that an independent checker needs. `docs/simulators.md` says what each imitates and what it does
not.
"""

from worker.simulator.connect import Connect
from worker.simulator.data import People, Person
from worker.simulator.dintero import Dintero, DuplicateEmailError
from worker.simulator.drivly import Drivly
from worker.simulator.faults import Fault
from worker.simulator.mykaarma import MyKaarma
from worker.simulator.server import Request, Simulator
from worker.simulator.store import Change

__all__ = [
    "Change",
    "Connect",
    "Dintero",
    "Drivly",
    "DuplicateEmailError",
    "Fault",
    "MyKaarma",
    "People",
    "Person",
    "Request",
    "Simulator",
]
