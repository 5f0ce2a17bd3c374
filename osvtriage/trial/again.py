"""Whether what would be booted is still what a run record was made with."""

from __future__ import annotations

from osvtriage.model.errors import UsageError
from osvtriage.trial.record import ImageRecord, RunRecord

_SAME = {
    "kernel": "kernel_sha256",
    "kernel's symbols": "symbols_sha256",
    "initramfs": "initrd_sha256",
    "command line": "append",
    "disks": "disks",
}


def require_same(record: RunRecord, now: ImageRecord | None) -> None:
    """See that *now* is what *record* was booted with.

    Raises:
        UsageError: it is not, or the run got nowhere near booting.
    """
    then = record.image
    if then is None or now is None:
        raise UsageError("the run of that record booted nothing", "`osvtriage show` says why")
    changed = [what for what, key in _SAME.items() if _value(then, key) != _value(now, key)]
    if changed:
        raise UsageError(
            f"this is not what that record was made with any more: other {', '.join(changed)}",
            "the image, the recipe or the compiler has changed since; with the recipe's name in "
            "place of the record what there is now is run",
        )


def _value(image: ImageRecord, key: str) -> object:
    value = getattr(image, key)
    # Where a disk's file lies does not matter.
    return [(disk.sha256, disk.format) for disk in value] if key == "disks" else value
