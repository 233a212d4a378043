import pytest

from data_prep.curate.filters import drop_reason, licence_group, split_of
from tests.data_prep.curate.extracted import citation, document

SETTINGS = {
    "languages": ["eng"],
    "require_abstract": True,
    "min_characters": 20,
    "licences": ["commercial", "nlm-terms"],
}
TEXT = "A title\n\nAn abstract that is long enough."


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (document(text=TEXT), None),
        (document(text=TEXT, language=None), None),
        (document(text=TEXT, language="und"), None),
        (document(text=TEXT, language="ger"), "language"),
        (citation(1, text=TEXT), None),
        (citation(1, text="A title of twenty characters or more\n\n"), "no_abstract"),
        (citation(1, text="An abstract that stands alone, without title", abstract=True), None),
        (citation(1, text="A title that\n\nhas a blank line in it", abstract=False), "no_abstract"),
        (document(text="One paragraph, which is no citation"), None),
        (document(text="A title\n\nShort."), "too_short"),
        (document(text=TEXT, licence="cc-by-nc-4.0"), "licence"),
        (document(text=TEXT, licence=None), "licence"),
    ],
)
def test_a_document_stays_or_is_dropped_for_its_reason(candidate, reason):
    assert drop_reason(candidate, SETTINGS) == reason


def test_what_the_settings_allow_is_not_dropped():
    allowed = {"languages": [], "require_abstract": False, "min_characters": 0}
    allowed["licences"] = ["commercial", "noncommercial", "other", "nlm-terms"]
    for candidate in (
        citation(1, text="A title", language="ger"),
        document(text="", licence=None),
        document(licence="cc-by-nc-nd"),
    ):
        assert drop_reason(candidate, allowed) is None


@pytest.mark.parametrize(
    ("licence", "group"),
    [
        ("cc0", "commercial"),
        ("cc0-1.0", "commercial"),
        ("cc-by", "commercial"),
        ("cc-by-4.0", "commercial"),
        ("cc-by-sa-3.0", "commercial"),
        ("cc-by-nd-2.5", "commercial"),
        ("cc-by-nc", "noncommercial"),
        ("cc-by-nc-4.0", "noncommercial"),
        ("cc-by-nc-sa-3.0", "noncommercial"),
        ("cc-by-nc-nd-4.0", "noncommercial"),
        ("custom", "other"),
        (None, "other"),
        ("nlm-terms", "nlm-terms"),
    ],
)
def test_licences_fall_into_nlm_s_groups(licence, group):
    assert licence_group(licence) == group


def test_about_the_wanted_fraction_is_validation_and_stays_it_at_a_larger_fraction():
    keys = [f"pmid:{number}" for number in range(20_000)]
    small, large = ({k for k in keys if split_of(k, f) == "validation"} for f in (0.01, 0.1))
    # Five standard deviations of a binomial count: sqrt(20,000 * 0.01 * 0.99) = 14.1.
    assert abs(len(small) - 200) < 5 * 14.1
    assert small < large
    assert all(split_of(key, 0) == "train" for key in keys)
