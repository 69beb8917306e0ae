"""Who answers at an address, a head node of Ray or another server: asked in the language of gRPC, without Ray.

Ray's own client asks for minutes where nobody answers, and ends the process with no word where another server does. So
the question that it begins with, whether the cluster is alive, is asked here first. gRPC is HTTP/2 (RFC 9113) with the
name of what is called as its path; an answer is a message with its length before it.
"""

from __future__ import annotations

import socket
from enum import Enum, auto
from time import monotonic

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How a client begins (RFC 9113, section 3.4); a frame of its settings follows."""
DATA, HEADERS, REFUSED, SETTINGS = 0, 1, 3, 4
"""The kinds of frames that are met here (section 6)."""
END_STREAM, END_HEADERS = 1, 4
"""Flags of a frame."""
STREAM = 1
"""The number of the conversation."""
FRAME_HEAD = 9
"""Bytes: three of its length, one of its kind, one of flags, four of its stream."""
LONGEST = 1 << 14
"""No frame may have more bytes than this (section 4.2)."""
POST_BY_HTTP = b"\x83\x86"
"""Two headers by their numbers in the table of HPACK (RFC 7541, appendix A)."""
QUESTION = "/ray.rpc.NodeInfoGcsService/CheckAlive"
NO_MESSAGE = bytes(5)
"""The empty message: not compressed, of length 0."""
NOT_ALLOWED = b"grpc-status\x0216"
"""A header of a cluster that asks for a token."""


class Answer(Enum):
    """Who answers."""

    HEAD_NODE = auto()
    WANTS_TOKEN = auto()
    """A head node that hears only clients with a token."""
    ANOTHER = auto()


def who_answers(host: str, port: int, seconds: float) -> Answer:
    """Ask at an address; an OSError where nobody answers within this time."""
    due = monotonic() + seconds
    with socket.create_connection((host, port), timeout=seconds) as server:
        server.sendall(PREFACE + frame(SETTINGS, 0, 0) + question(host))
        while head := next_frame(server, due):
            kind, flags, stream, body = head
            if stream == STREAM and kind == DATA:
                return Answer.HEAD_NODE if is_message(body) else Answer.ANOTHER
            if stream == STREAM and (kind == REFUSED or (kind == HEADERS and flags & END_STREAM)):
                return Answer.WANTS_TOKEN if NOT_ALLOWED in body else Answer.ANOTHER
    return Answer.ANOTHER


def question(host: str) -> bytes:
    """The frames of the question."""
    headers = {":path": QUESTION, ":authority": host, "te": "trailers", "content-type": "application/grpc"}
    head = POST_BY_HTTP + b"".join(b"\0" + with_length(name) + with_length(text) for name, text in headers.items())
    return frame(HEADERS, END_HEADERS, STREAM, head) + frame(DATA, END_STREAM, STREAM, NO_MESSAGE)


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """A frame of HTTP/2 (section 4.1)."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def with_length(text: str) -> bytes:
    """A text of less than 127 bytes as HPACK has it (RFC 7541, section 5.2)."""
    content = text.encode()[:126]
    return bytes([len(content)]) + content


def next_frame(server: socket.socket, due: float) -> tuple[int, int, int, bytes] | None:
    """Kind, flags, stream and content of the next frame; None where the server speaks another language."""
    head = received(server, FRAME_HEAD, due)
    length, stream = int.from_bytes(head[:3], "big"), int.from_bytes(head[5:], "big")
    if length > LONGEST:
        return None
    return head[3], head[4], stream, received(server, length, due)


def received(server: socket.socket, length: int, due: float) -> bytes:
    """So many bytes of what the server says; an OSError where it hangs up or is late."""
    said = b""
    while len(said) < length:
        if (left := due - monotonic()) <= 0:
            raise TimeoutError("timed out")
        server.settimeout(left)
        if not (more := server.recv(length - len(said))):
            raise OSError("it hangs up")
        said += more
    return said


def is_message(body: bytes) -> bool:
    """Whether a frame holds a message of gRPC: another server may answer with a page."""
    return len(body) >= len(NO_MESSAGE) and body[0] == 0 and int.from_bytes(body[1:5], "big") == len(body) - 5
