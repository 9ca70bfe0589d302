"""Write the sample data of pseudopeople, with its default noise, as CSV files: make_pseudopeople.py SEED FOLDER.

It runs in an environment of its own (`pip install pseudopeople==1.3.1`), since that package pins old libraries.
"""

import sys
from pathlib import Path

import pseudopeople  # type: ignore[import-not-found]

MAKERS = {
    "census": pseudopeople.generate_decennial_census,
    "ssa": pseudopeople.generate_social_security,
    "tax1040": pseudopeople.generate_taxes_1040,
    "w2": pseudopeople.generate_taxes_w2_and_1099,
}


def main(seed: int, folder: Path) -> None:
    """Generate every set with the noise drawn by `seed`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in MAKERS.items():
        make(seed=seed).to_csv(folder / f"{name}.csv", index=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
