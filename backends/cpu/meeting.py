"""How the workers of a call meet, within compiled code: at barriers, and when the call begins and ends."""

from numba import njit

from fusedmlp.backends.cpu.compiling import CALLED
from fusedmlp.backends.cpu.machine import atomic_add, atomic_load, atomic_store, pause, yield_core

# The places in `sync` of the words by which the workers of a call meet: 64 bytes apart, so that no two share a line of
# cache.
ARRIVED, GENERATION, REQUEST, PUBLISHED, ABANDONED, LEFT = 0, 8, 16, 24, 32, 40
SYNC_LENGTH = 48

# How often a waiting worker looks before it gives up its core at every further turn: in a sketch 2,000 times
# cost 8 times more where workers outnumbered cores, 20,000 seventy times.
SPINS = 200

# How often a worker that has done its part then gives up its core and listens again for the next call: 0.2 ms in all,
# where nobody else wants the core, and to wake a thread takes 0.1 (AMD EPYC, 2 cores of a virtual machine). Where
# workers outnumber cores, others have the core meanwhile; what that costs is not settled (docs/performance.md).
TURNS = 400


@njit(**CALLED)
def wait(turns):
    """A turn of a waiting worker, the one after so many."""
    if turns < SPINS:
        pause()
    else:
        yield_core()
    return turns + 1


@njit(**CALLED)
def barrier(c):
    _, parties, sync, _ = c
    if parties == 1:
        return True
    generation = atomic_load(sync, GENERATION)
    if atomic_add(sync, ARRIVED, 1) + 1 == parties:
        atomic_store(sync, ARRIVED, 0)
        atomic_store(sync, PUBLISHED, atomic_load(sync, REQUEST))
        atomic_store(sync, GENERATION, generation + 1)
    else:
        turns = 0
        while atomic_load(sync, GENERATION) == generation and atomic_load(sync, ABANDONED) == 0:
            turns = wait(turns)
    return atomic_load(sync, ABANDONED) == 0


@njit(**CALLED)
def request_stop(c, reason, step):
    atomic_store(c[2], REQUEST, reason)


@njit(**CALLED)
def stopped(c):
    """The reason, as of the last barrier; one worker has none, nor anybody with whom to agree."""
    _, parties, sync, _ = c
    return atomic_load(sync, PUBLISHED if parties > 1 else REQUEST)


@njit(**CALLED)
def begin(number, bell):
    """Worker 0 rings for those that listen. Where the bell is empty, nobody does."""
    if number == 0 and len(bell) > 0:
        atomic_add(bell, 0, 1)


@njit(**CALLED)
def end(number, parties, sync, bell):
    """Worker 0 sees the others out of the call. They listen until the next one rings, or TURNS are over: then they are
    to be woken as any thread that sleeps."""
    if len(bell) == 0:
        return
    turns = 0
    if number == 0:
        while atomic_load(sync, LEFT) + 1 < parties and atomic_load(sync, ABANDONED) == 0:
            turns = wait(turns)
    else:
        rung = atomic_load(bell, 0)  # before worker 0 may know that this one is out, and ring again
        atomic_add(sync, LEFT, 1)
        while atomic_load(bell, 0) == rung and turns < SPINS + TURNS:
            turns = wait(turns)
