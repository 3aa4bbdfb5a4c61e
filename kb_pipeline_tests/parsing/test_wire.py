"""What parser processes say: it arrives as it was meant, and nothing else is believed."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.parsing import wire
from kb_pipeline.parsing.document import Attachment, Block, BlockKind, Document
from kb_pipeline.parsing.outcome import Outcome
from kb_pipeline.statuses import Status

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PATHS = st.lists(TEXTS, max_size=3).map(tuple)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Any outcome of a parser."""
    parser_id, detail = draw(st.none() | TEXTS), draw(TEXTS)
    if draw(st.booleans()):
        status = draw(st.sampled_from([Status.CORRUPT, Status.ENCRYPTED, Status.CRASHED, Status.TOO_LARGE, Status.EXCLUDED]))
        return Outcome(status, None, parser_id, detail)
    text = draw(TEXTS)
    bounds = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    blocks = tuple(
        Block(draw(st.sampled_from(BlockKind)), start, end, draw(PATHS), draw(st.none() | st.integers(1, 2**32 - 1)))
        for start, end in zip(bounds[::2], bounds[1::2], strict=False)
    )
    metadata = draw(st.dictionaries(TEXTS, TEXTS, max_size=3))
    attachments = tuple(draw(st.lists(st.builds(Attachment, TEXTS, TEXTS, st.binary(max_size=20)), max_size=3)))
    status = draw(st.sampled_from([Status.PARSED, Status.NO_TEXT, Status.EMPTY, Status.EXCLUDED]))
    document = Document(text, draw(TEXTS), blocks, draw(st.none() | TEXTS), metadata, attachments)
    return Outcome(status, document, parser_id, detail)


def frame(number: int, outcome: Outcome) -> bytes:
    return b"".join(wire.encode_outcome(number, outcome))


@given(
    st.lists(
        st.builds(
            wire.Request,
            st.integers(1, 2**32 - 1),
            st.text(max_size=9),
            st.binary(max_size=9),
            st.booleans(),
            st.none() | st.text(min_size=1, max_size=9),
        ),
        max_size=4,
    )
)
def test_requests_arrive_as_they_were(sent: list[wire.Request]) -> None:
    stream = io.BytesIO(b"".join(piece for request in sent for piece in wire.encode_request(request)))
    assert list(iter(lambda: wire.read_request(stream), None)) == sent


@given(st.lists(outcomes(), max_size=4), st.integers(1, 50))
def test_outcomes_arrive_as_they_were_in_any_pieces(sent: list[Outcome], piece: int) -> None:
    stream = b"".join(frame(number, outcome) for number, outcome in enumerate(sent, 1))
    received = bytearray()
    arrived: list[Outcome] = []
    for start in range(0, len(stream), piece):
        received += stream[start : start + piece]
        replies, received = wire.take_replies(received, 1_000_000)
        arrived += [wire.decode_outcome(len(arrived) + n, reply) for n, reply in enumerate(replies, 1)]
    assert arrived == sent
    assert not received


@given(outcomes(), st.data())
def test_a_damaged_reply_is_refused_or_makes_a_sound_document(outcome: Outcome, data: st.DataObject) -> None:
    (reply,), _ = wire.take_replies(bytearray(frame(1, outcome)), 1_000_000)
    header, body = bytearray(reply.header), bytearray(reply.body)
    for part in (header, body):
        for _ in range(data.draw(st.integers(0, 3)) if part else 0):
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    try:
        arrived = wire.decode_outcome(1, wire.Reply(1, bytes(header), memoryview(body)[:cut]))
    except wire.InvalidReply:
        return
    assert arrived.status.good == (arrived.document is not None) or arrived.status is Status.EXCLUDED
    position = 0
    for block in arrived.document.blocks if arrived.document is not None else ():
        assert position <= block.start <= block.end <= len(arrived.document.text if arrived.document is not None else "")
        position = block.end


@pytest.mark.parametrize(
    "header",
    [
        b"", b"null", b"[]", b'"x"', b"\xff", b"[" * 100_000, b"{}",
        b'{"status": "unreadable", "parser": null, "detail": ""}',
        b'{"status": "crashed", "parser": 3, "detail": ""}',
        b'{"status": "crashed", "parser": null, "detail": "\\ud800"}',
        b'{"status": [], "parser": null, "detail": ""}',
        b'{"status": "parsed", "parser": null, "detail": ""}',
        b'{"status": "parsed", "parser": null, "detail": "", "blocks": true}',
        b'{"status": "parsed", "parser": null, "detail": "", "blocks": -1}',
        b'{"status": "parsed", "parser": null, "detail": "", "blocks": 1e99}',
        b'{"status": "parsed", "parser": null, "detail": "", "blocks": 0, "paths": [[1]], "title": null}',
        b'{"status": "parsed", "parser": null, "detail": "", "blocks": 0, "paths": [], "title": "\\udc00"}',
    ],
)  # fmt: skip
def test_nonsense_is_refused(header: bytes) -> None:
    with pytest.raises(wire.InvalidReply):
        wire.decode_outcome(1, wire.Reply(1, header, memoryview(b"")))


def test_a_reply_to_another_request_is_refused() -> None:
    (reply,), _ = wire.take_replies(bytearray(frame(2, Outcome(Status.CRASHED))), 1_000)
    with pytest.raises(wire.InvalidReply, match="reply 2 to request 1"):
        wire.decode_outcome(1, reply)


def test_a_reply_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(wire.TooLong, match="1,000,001"):
        wire.take_replies(bytearray(wire.REPLY.pack(1, 1, 1_000_000)), 1_000_000)


def test_a_reply_before_one_that_is_too_long_is_not_lost() -> None:
    received = bytearray(frame(1, Outcome(Status.CRASHED)) + wire.REPLY.pack(2, 1, 1_000_000))
    (reply,), rest = wire.take_replies(received, 1_000)
    assert reply.number == 1
    with pytest.raises(wire.TooLong):
        wire.take_replies(rest, 1_000)


def test_a_long_detail_is_cut() -> None:
    (reply,), _ = wire.take_replies(bytearray(frame(1, Outcome(Status.CRASHED, detail="x" * 5_000))), 1_000_000)
    assert len(wire.decode_outcome(1, reply).detail) == 1_000
