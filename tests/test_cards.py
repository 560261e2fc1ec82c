"""The page of method cards is what the methods print."""

from fedpurel_app.algorithms.balancers.registry import BALANCERS
from fedpurel_app.algorithms.beyond.registry import VARIANTS
from fedpurel_app.algorithms.registry import METHODS
from tools.write_cards import OF_FAMILIES, PAGE, as_markdown, names, page, sections


def test_the_page_is_printed_from_the_methods():
    written = PAGE.read_text("utf-8")
    assert written == page(), "print it anew: python tools/write_cards.py"
    for key, registry in (("algorithm", METHODS), ("balancer", BALANCERS)):
        for name in set(registry) - {"none"}:
            assert f': `{key} = "{name}"`' in written, name


def test_every_card_has_a_source_and_equations():
    cards = PAGE.read_text("utf-8").split("\n## ")[1:]
    assert len(cards) == len(METHODS) + len(BALANCERS) - 1 + len(VARIANTS) + len(OF_FAMILIES)
    for one in cards:
        assert "\n| source | " in one and "| source |  |" not in one, one[:60]
        assert "```text\n" in one, one[:60]


def test_a_docstring_is_taken_apart():
    doc = """First line,
    and its end.

        a = b

    More of ``it``, in :mod:`.there`.

    References
    ----------
    Somebody, "Title",
    2020.

    Examples
    --------
    >>> 1
    """
    summary, (equation, more), references = sections(doc)
    assert (summary, references) == ("First line, and its end.", 'Somebody, "Title", 2020.')
    assert as_markdown(equation) == "```text\na = b\n```" and as_markdown(more) == "More of `it`, in `there`."
    assert names(["blocks.0.q.A", "blocks.1.q.A", "b"]) == "`blocks.*.q.A`, `b`" and names([]) == "–"
