"""How well does the nearest class centroid tell malignant from benign?

The same program as ../awk-image/classify.awk, with the same answer to the last digit it prints.

Reads every CSV file in $TORNO_INPUT (or /input): a header line, then one patient a line, with the
column "diagnosis" (0 malignant, 1 benign, as the data set has it) and numbers in every other column.
Each patient is classified by the centroids of all the others. Writes metrics.json and confusion.csv
to $TORNO_OUTPUT (or /output): counts and proportions, nothing about any one patient.

Standard library only, and of that only what Debian's python3-minimal has.
"""

import csv
import math
import os
import sys
from pathlib import Path

MALIGNANT, BENIGN = 0, 1
WORD = ("malignant", "benign")


def main():
    patients = read(Path(os.environ.get("TORNO_INPUT", "/input")))
    output = Path(os.environ.get("TORNO_OUTPUT", "/output"))
    confusion = classify_all(patients)
    write_metrics(output / "metrics.json", confusion, features=len(patients[0][1]))
    write_confusion(output / "confusion.csv", confusion)


def read(folder):
    """Every patient of every file, as (diagnosis, features)."""
    header = None
    patients = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            first = next(rows, None)
            if header is None:
                header = first
                if not header or "diagnosis" not in header:
                    fail(f'{path}: there is no column "diagnosis"')
                target = header.index("diagnosis")
            elif first != header:
                fail(f"{path}: its header is not that of the first file")
            for row in filter(None, rows):
                where = f"{path}:{rows.line_num}"
                if len(row) != len(header):
                    fail(f"{where}: {len(row)} columns, and the header has {len(header)}")
                diagnosis = row.pop(target)
                if diagnosis not in ("0", "1"):
                    fail(f"{where}: diagnosis is neither 0 nor 1")
                patients.append((int(diagnosis), [number(text, where) for text in row]))
    if header is None:
        fail("there is no CSV file with a header to read")
    return patients


def number(text, where):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        fail(f'{where}: "{text}" is not a number')
    return value


def classify_all(patients):
    """How many patients of each diagnosis (first index) were classified as each (second index).

    A patient is taken out of the sums over all of them, which costs one pass over the features;
    the whole costs patients x features.
    """
    count = [sum(diagnosis == c for diagnosis, _ in patients) for c in (MALIGNANT, BENIGN)]
    if min(count) < 2:
        fail("each diagnosis needs at least 2 patients")
    n = len(patients)

    # Around the mean no distance changes, and sums of squares keep their digits.
    means = [sum(column) / n for column in zip(*(features for _, features in patients))]
    patients = [(d, [x - mean for x, mean in zip(features, means)]) for d, features in patients]

    sums = [[0.0] * len(means) for _ in WORD]
    squares = [0.0] * len(means)
    for diagnosis, features in patients:
        for f, x in enumerate(features):
            sums[diagnosis][f] += x
            squares[f] += x * x

    def nearest(own, features):
        """The class of the nearest centroid of the others; malignant on a tie."""
        distance = [0.0, 0.0]
        for f, x in enumerate(features):
            mean = (sums[0][f] + sums[1][f] - x) / (n - 1)
            variance = (squares[f] - x * x) / (n - 1) - mean * mean
            if variance <= 1e-12 * squares[f] / n:
                continue  # all the others are alike in it
            for c in (MALIGNANT, BENIGN):
                if c == own:
                    centroid = (sums[c][f] - x) / (count[c] - 1)
                else:
                    centroid = sums[c][f] / count[c]
                distance[c] += (x - centroid) ** 2 / variance
        return BENIGN if distance[BENIGN] < distance[MALIGNANT] else MALIGNANT

    confusion = [[0, 0], [0, 0]]
    for diagnosis, features in patients:
        confusion[diagnosis][nearest(diagnosis, features)] += 1
    return confusion


def write_metrics(path, confusion, features):
    malignant, benign = map(sum, confusion)
    patients = malignant + benign
    path.write_text(
        "{\n"
        '  "method": "nearest centroid, standardised features, leave one out",\n'
        f'  "patients": {patients},\n'
        f'  "malignant": {malignant},\n'
        f'  "benign": {benign},\n'
        f'  "features": {features},\n'
        f'  "accuracy": {(confusion[0][0] + confusion[1][1]) / patients:.6f},\n'
        f'  "sensitivity": {confusion[0][0] / malignant:.6f},\n'
        f'  "specificity": {confusion[1][1] / benign:.6f}\n'
        "}\n"
    )


def write_confusion(path, confusion):
    lines = ["diagnosis,classified_as,patients"]
    for actual in (MALIGNANT, BENIGN):
        for classified in (MALIGNANT, BENIGN):
            lines.append(f"{WORD[actual]},{WORD[classified]},{confusion[actual][classified]}")
    path.write_text("\n".join(lines) + "\n")


def fail(message):
    print(f"classify: {message}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
