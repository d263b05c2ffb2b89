"""A card knows whether somebody changed it."""

import pytest

from hyperrep.files import is_unchanged, signed


TEXT = "---\nlicense: apache-2.0\n---\n\n# A model\n\nGood."


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n\n", "", signed(TEXT)])
def test_what_we_wrote_is_known_and_every_change_of_it(text):
    card = signed(text)
    assert card.startswith(text.rstrip())
    assert is_unchanged(card)
    assert is_unchanged(card.replace("\n", "\r\n"))
    assert is_unchanged(card.rstrip())
    assert not is_unchanged(text) or text == signed(TEXT)
    for position in range(len(card.rstrip())):
        if not card[position].isspace():
            assert not is_unchanged(card[:position] + "#*"[card[position] == "#"] + card[position + 1 :])
    assert not is_unchanged(card + "My own words.")
    assert not is_unchanged("My own words.\n" + card)
