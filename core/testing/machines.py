"""Machines that are not at hand, for tests of what an engine's description says about them."""

from ..hooks.types import Accelerator, Machine

__all__ = ["GIB", "make_machine"]

GIB = 1 << 30


def make_machine(
    *kinds: str,
    gib: int = 24,
    memory_gib: int = 64,
    cores: int = 8,
    platform: str = "linux",
    architecture: str = "x86_64",
) -> Machine:
    """Return a machine with an accelerator of each kind, all of whose memory is free.

    Args:
        gib: memory of each accelerator.
        memory_gib: main memory.
    """
    return Machine(
        platform=platform,
        architecture=architecture,
        cores=cores,
        memory_total_bytes=memory_gib * GIB,
        memory_free_bytes=memory_gib * GIB,
        accelerators=tuple(
            Accelerator(
                index=index,
                kind=kind,  # type: ignore[arg-type]  # a test names it
                name=kind,
                memory_total_bytes=gib * GIB,
                memory_free_bytes=gib * GIB,
            )
            for index, kind in enumerate(kinds)
        ),
    )
