"""`python -m worker.reference`: write the tables of `docs/metrics.md` and `docs/logs.md` anew from the code.

What stands before a table stays.
"""

from pathlib import Path

from worker import logevents, telemetry

for name, table in (("metrics", telemetry.table()), ("logs", logevents.table())):
    path = Path("docs", f"{name}.md")
    text, _, _ = path.read_text("utf-8").partition("\n| ")
    path.write_text(f"{text}\n{table}", "utf-8")
