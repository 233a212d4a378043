"""The decisions of a corpus against a reading of the rules that looks at one document after another."""

import numpy as np
import pyarrow.parquet as pq

from data_prep.curate.identity import IdentifyStage
from data_prep.curate.reasons import REASONS
from data_prep.curate.steps import decisions_name
from data_prep.documents import Deletion
from tests.data_prep.curate.extracted import (
    FORMATS,
    Corpus,
    citation,
    deletion,
    document,
    retraction_of,
)

TITLE = "A title long enough to tell one article from another: {}"


class Reference:
    """Decides like identify, slowly: `units` is {unit: (events, file order)}."""

    def __init__(self, units):
        self.rows = []  # every document: its unit, place, file order, whether PubMed's
        self.events = []
        for unit in sorted(units):
            events, order = units[unit]
            source = unit.split("/")[0]
            place = 0
            for event in events:
                row = {"unit": unit, "order": order or (0, 0), "cited": source == "pubmed"}
                row["rank"] = {"jats": 0, "s2orc": 1}.get(FORMATS[source], 2)
                self.events.append((event, row))
                if not isinstance(event, Deletion):
                    row |= {"place": place, "about": event["metadata"], "event": event}
                    row["reason"] = None
                    self.rows.append(row)
                    place += 1

    def decide(self):
        self.citations()
        self.withdrawals()
        self.revisions()
        alive = [row for row in self.rows if not row["reason"]]
        texts = [row for row in alive if not row["cited"]]
        retracted = {
            link["pmid"]
            for row in alive
            for link in row["about"]["links"]
            if row["about"]["notice"]
        }
        for row in alive:
            row["marked"] = row["about"]["retracted"] or row["about"]["pmid"] in retracted
            row["filter"] = self.filtered(row)
        met = [row for row in alive if row["cited"] and any(shares(row, other) for other in texts)]
        for group in components(texts + met):
            self.article(group)
        self.titles(texts, [row for row in alive if row["cited"]])
        for row in alive:
            row["reason"] = (
                "retracted" if row["marked"] else row["reason"] or row["filter"] or "keep"
            )
        found = {}
        for row in self.rows:
            found.setdefault(row["unit"], []).append(row["reason"])
        return found

    def citations(self):
        files = sorted({(r["order"], r["unit"]) for _, r in self.events if r["cited"]})
        standing = {}
        for file in files:
            here = [
                (e, r) for e, r in self.events if r["cited"] and (r["order"], r["unit"]) == file
            ]
            for event, row in here:
                if not isinstance(event, Deletion):
                    standing.setdefault(row["about"]["pmid"], []).append(row)
            for event, _ in here:
                if isinstance(event, Deletion):
                    for row in standing.get(event.pmid, []):
                        if row["about"]["version"] <= event.version:
                            row["reason"] = "deleted"
                    left = [r for r in standing.get(event.pmid, []) if not r["reason"]]
                    standing[event.pmid] = left
        for rows in standing.values():
            newest = max(
                rows,
                key=lambda r: (r["about"]["version"], r["order"], r["unit"], r["place"]),
                default=None,
            )
            for row in rows:
                if row is not newest:
                    row["reason"] = "superseded"

    def withdrawals(self):
        for event, at in self.events:
            if isinstance(event, Deletion) and not at["cited"]:
                for row in self.rows:
                    if (
                        not row["cited"]
                        and row["about"]["pmcid"] == event.pmcid
                        and (row["about"]["version"] or 1) <= event.version
                        and row["order"] <= at["order"]
                    ):
                        row["reason"] = "deleted"

    def revisions(self):
        """Of a source's full texts of one PMCID only those of the newest version and file stand."""
        texts = [r for r in self.rows if not r["cited"] and not r["reason"] and r["about"]["pmcid"]]

        def state(row):
            return row["about"]["version"] or 1, row["order"]

        def article(row):
            return row["unit"].split("/")[0], row["about"]["pmcid"]

        for row in texts:
            if any(article(o) == article(row) and state(o) > state(row) for o in texts):
                row["superseded"] = True
        for row in texts:
            if row.get("superseded"):
                row["reason"] = "superseded"

    @staticmethod
    def filtered(row):
        if row["about"]["language"] == "ger":
            return "language"
        title_alone = row["about"]["kind"] == "citation" and not row["about"]["abstract"]
        return "no_abstract" if title_alone else None

    @staticmethod
    def article(group):
        candidates = [row for row in group if not row["cited"] and not row["filter"]]
        best = min(
            candidates,
            key=lambda r: (
                r["about"]["kind"] != "full_text", r["rank"], -(r["about"]["version"] or 1),
                tuple(-part for part in r["order"]), r["unit"], r["place"],
            ),
            default=None,
        )  # fmt: skip
        marked = any(row["marked"] for row in group)
        for row in group:
            row["group"], row["marked"] = group, marked
            if best is not None and row["cited"]:
                row["reason"] = "has_full_text"
            elif best is not None and not row["filter"] and row is not best:
                row["reason"] = "duplicate_id"
            row["best"] = row is best

    @staticmethod
    def titles(texts, cited):
        stay = [row for row in texts if row["best"] and row["about"]["kind"] == "full_text"]
        pairs = []
        for row in cited:
            if row["reason"]:
                continue
            same = [other for other in stay if title(row) and title(other) == title(row)]
            alone = len(same) == 1 and not any(other["cited"] for other in same[0]["group"])
            if alone and agree(same[0]["about"], row["about"]):
                row["reason"] = "same_title"
                pairs.append((row, same[0]))
        for row, text in pairs:
            for other in text["group"] if row["marked"] else []:
                other["marked"] = True
        for row, text in pairs:
            row["marked"] = row["marked"] or text["marked"]


def title(row):
    first = row["event"]["text"].split("\n")[0]
    letters = "".join(letter for letter in first.casefold() if letter.isalnum())
    return letters if len(letters) >= 30 else None


def agree(text, cited):
    if not text["year"] or not cited["year"] or abs(text["year"] - cited["year"]) > 1:
        return False
    return all(
        not text[key] or not cited[key] or text[key] == cited[key]
        for key in ("pmid", "pmcid", "doi")
    )


def shares(row, other):
    return any(
        row["about"][key] and row["about"][key] == other["about"][key]
        for key in ("pmid", "pmcid", "doi")
    )


def components(rows):
    left, groups = list(rows), []
    while left:
        group, queue = [], [left.pop(0)]
        while queue:
            row = queue.pop()
            group.append(row)
            queue += [other for other in left if shares(row, other)]
            left = [other for other in left if not shares(row, other)]
        groups.append(group)
    return groups


def draw_units(rng):
    """A few units of each source over so few ids, titles and versions that they meet."""

    def maybe(share, value):
        return value if rng.random() < share else None

    def keys():
        return {
            "pmid": maybe(0.4, int(rng.integers(1, 16))),
            "pmcid": maybe(0.4, f"PMC{rng.integers(1, 9)}"),
            "doi": maybe(0.3, f"10.1000/{rng.integers(1, 12)}"),
        }

    def about():
        found = {
            "version": int(rng.integers(1, 3)),
            "retracted": bool(rng.random() < 0.05),
            "language": "ger" if rng.random() < 0.1 else "eng",
            "year": maybe(0.9, int(rng.integers(2000, 2003))),
            "text": TITLE.format(rng.integers(12)) + ("\n\nWords." if rng.random() < 0.9 else ""),
        }
        notice = retraction_of(int(rng.integers(1, 16))) if rng.random() < 0.06 else {}
        return found | notice

    def cited():
        return citation(**keys() | about() | {"pmid": int(rng.integers(1, 16))})

    def text(kind, number):
        return document(**keys() | about() | {"kind": kind, "id": f"text:{number}"})

    units = {}
    for number in range(rng.integers(1, 4)):
        events = [cited() for _ in range(rng.integers(0, 9))]
        events += [
            deletion(int(rng.integers(1, 16)), int(rng.integers(1, 3)))
            for _ in range(rng.integers(0, 3))
        ]
        units[f"pubmed/{number}"] = (events, (26, int(rng.integers(3))))
    for source, kind in (("pmc", "full_text"), ("papers", "full_text"), ("books", "text")):
        for number in range(rng.integers(0, 3)):
            events = [
                text(kind if rng.random() < 0.8 else "citation", f"{source}{number}{n}")
                for n in range(rng.integers(0, 6))
            ]
            if source == "pmc" and rng.random() < 0.5:
                events += [deletion(version=1, pmcid=f"PMC{rng.integers(1, 9)}")]
            order = (26, int(rng.integers(3))) if source == "pmc" else None
            units[f"{source}/{number}"] = (events, order)
    return units


def test_equals_the_rules_read_one_document_at_a_time(tmp_path):
    seen = set()
    for seed in range(80):
        units = draw_units(np.random.default_rng(seed))
        corpus = Corpus(tmp_path / str(seed), drop_notices=False, min_characters=0)
        for unit, (events, order) in units.items():
            corpus.extract(unit, events, order)
        stage = IdentifyStage(corpus.config)
        folder = tmp_path / str(seed) / "out"
        stage.run_unit(stage.units()[0], folder)
        found = {
            unit: pq.read_table(folder / decisions_name(unit))["reason"].to_pylist()
            for unit in units
        }
        expected = {unit: [] for unit in units} | Reference(units).decide()
        assert found == expected, seed
        seen |= {reason for reasons in found.values() for reason in reasons}
    left_to_other_tests = {"too_short", "licence", "notice", "quality", "seen_before"}
    assert seen == set(REASONS) - left_to_other_tests
