"""Draw a run record as a picture.

.venv/bin/python tools/picture.py DIR > docs/verdict.svg
"""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from osvtriage.report.terminal import lines
from osvtriage.trial.record import RunRecord

directory = Path(sys.argv[1])
record = RunRecord.read(directory)
console = Console(record=True, width=132, file=io.StringIO(), highlight=False, markup=False)
console.print(Text(f"$ {record.command}", "bold"))
for line in lines(record, Path("~/.local/state/osvtriage/runs") / directory.name):
    console.print(line, soft_wrap=False)
print(console.export_svg(title="osvtriage"))
