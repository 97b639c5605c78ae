"""Large messages are received when there is memory for them: by turns between connections, each in order."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from billet.core.turns import Turns


def test_a_connection_with_many_large_messages_leaves_room_for_another_one() -> None:
    """Broken on purpose (no shares): the first connection has all 100 bytes, and the second one waits behind it."""
    turns = Turns[str, str](100)
    assert [turns.ask("busy", f"b{number}", 20) for number in range(6)] == [True, True, True, False, False, False]
    assert turns.ask("calm", "c", 20)
    assert turns.leave("calm", "c") == []
    assert turns.leave("busy", "b0") == ["b3"]
    assert turns.leave("busy", "b4") == [], "it had not had its turn"
    assert turns.leave("busy", "b1") == ["b5"]
    assert turns.waiting == 0


def test_a_message_larger_than_all_memory_has_its_turn_when_nobody_else_has_one() -> None:
    """Broken on purpose (it has to fit): it waits for ever."""
    turns = Turns[str, str](100)
    assert turns.ask("a", "small", 10)
    assert not turns.ask("a", "huge", 1_000)
    assert turns.leave("a", "small") == ["huge"]


def test_a_large_message_is_not_passed_by_small_ones_for_ever() -> None:
    """Broken on purpose (who fits goes first): twelve busy clients leave no room for it at any moment."""
    turns = Turns[str, tuple[str, int]](32)
    busy = [f"busy-{number}" for number in range(12)]
    running = [(client, 0) for client in busy if turns.ask(client, (client, 0), 2)]
    assert not turns.ask("rare", ("rare", 0), 20)
    for number in range(1, 100):
        client, before = running.pop(0)
        running += turns.leave(client, (client, before))
        if turns.ask(client, (client, number), 2):
            running.append((client, number))
        if ("rare", 0) in running:
            return
    raise AssertionError("it had no turn")


CONNECTIONS = ("a", "b", "c")


@given(st.lists(st.tuples(st.sampled_from(CONNECTIONS), st.integers(1, 60)), max_size=40), st.randoms())
def test_everybody_has_a_turn_in_order_and_within_the_limit(asks: list[tuple[str, int]], draw: object) -> None:
    turns = Turns[str, int](50)
    waiting: dict[str, list[int]] = defaultdict(list)
    has: dict[int, str] = {}
    sizes = {call: size for call, (_, size) in enumerate(asks)}

    def began(calls: list[int]) -> None:
        for call in calls:
            connection = asks[call][0]
            assert waiting[connection].pop(0) == call
            has[call] = connection
        held = sum(sizes[call] for call in has)
        assert turns.held_bytes == held
        assert held <= 50 or len(has) == 1

    for call, (connection, size) in enumerate(asks):
        waiting[connection].append(call)
        began([call] if turns.ask(connection, call, size) else [])
        assert turns.waiting == sum(map(len, waiting.values()))
    while has:
        call = draw.choice(sorted(has))  # type: ignore[attr-defined]
        began(turns.leave(has.pop(call), call))
    assert not any(waiting.values())
