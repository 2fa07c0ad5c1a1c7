"""A small client of a ComfyUI server: queue a prompt over HTTP, follow it over its WebSocket.

    client = ComfyClient("http://127.0.0.1:8188")
    result = client.run(prompt, on_event=print)
    png = client.fetch(result.images("9")[0])

Needs aiohttp, which ComfyUI's own Python has. Requests never go through a proxy.
"""

from __future__ import annotations

import asyncio
import json
import struct
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

# Binary messages start with one of these as four bytes, big endian.
_PREVIEW = 1
_TEXT = 3
_PREVIEW_WITH_METADATA = 4


class PromptRejected(ValueError):
    """The server refused a prompt before running it; `node_errors` says where and why."""

    def __init__(self, answer: dict):
        self.error = answer["error"]
        self.node_errors = answer["node_errors"]
        reasons = [
            f"node {key} ({found['class_type']}): {error['message']}: {error['details']}"
            for key, found in self.node_errors.items()
            for error in found["errors"]
        ]
        super().__init__("\n".join([self.error["message"], *reasons]))


@dataclass(frozen=True)
class Event:
    """One message about a running prompt.

    kind: "progress" (`value` of `maximum`), "preview" (`image`, an encoded JPEG or PNG), "text"
    (`text`, shown on the node), "executing" (the node starts), "executed" (it gave `output`).
    """

    kind: str
    node: str
    value: float = 0
    maximum: float = 0
    image: bytes = b""
    text: str = ""
    output: dict = field(default_factory=dict)


@dataclass
class Result:
    """How a prompt ended.

    status: "success", "error" or "interrupted". executed: ids of nodes that ran, in order. cached:
    ids of nodes whose earlier result was used. outputs: node id to what it shows or saved. error:
    the server's message of an error, with "node_id", "node_type", "exception_message".
    """

    prompt_id: str
    status: str = "success"
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    outputs: dict = field(default_factory=dict)
    error: dict = field(default_factory=dict)

    def images(self, node: str) -> list[dict]:
        """What the node saved or shows, each for `ComfyClient.fetch`."""
        return self.outputs[node]["images"]


class ComfyClient:
    """Talks to the server at `url`, such as "http://127.0.0.1:8188"."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get_bytes(self, path: str, **query: str) -> bytes:
        address = f"{self.url}/{path}?{urllib.parse.urlencode(query)}"
        with self._opener.open(address, timeout=60) as answer:
            return answer.read()

    def get(self, path: str):
        """What the server answers as JSON."""
        return json.loads(self.get_bytes(path))

    def post(self, path: str, data: dict):
        """Send JSON; returns the JSON of the answer, or None where it has none."""
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            f"{self.url}/{path}", body, {"Content-Type": "application/json"}
        )
        with self._opener.open(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def queue(self, prompt: dict) -> str:
        """Queue an API prompt and return its id; PromptRejected where the server refuses it."""
        try:
            answer = self.post("prompt", {"prompt": prompt, "client_id": self.client_id})
        except urllib.error.HTTPError as refusal:
            if refusal.code != 400:
                raise
            raise PromptRejected(json.loads(refusal.read())) from None
        return answer["prompt_id"]

    def interrupt(self) -> None:
        """Cancel what is running."""
        self.post("interrupt", {})

    def fetch(self, image: dict) -> bytes:
        """The file of an image in a `Result`."""
        query = {key: image[key] for key in ("filename", "subfolder", "type")}
        return self.get_bytes("view", **query)

    def run(
        self,
        prompt: dict,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = 3600,
    ) -> Result:
        """Queue an API prompt and follow it to its end, which may be an error or a Cancel.

        Args:
            prompt: node id to {"class_type", "inputs"}.
            on_event: called for every message while it runs; may call `interrupt`.
            timeout: seconds for the whole run.

        Raises:
            PromptRejected: the server refused the prompt.
            TimeoutError, ConnectionError: the run took too long, or the server went away.
        """
        return asyncio.run(
            asyncio.wait_for(self._run(prompt, on_event or (lambda event: None)), timeout)
        )

    async def _run(self, prompt: dict, on_event: Callable[[Event], None]) -> Result:
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            features = {"supports_preview_metadata": True}
            await socket.send_json({"type": "feature_flags", "data": features})
            # The answer says that the server has taken note of it.
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    if message.json()["type"] == "feature_flags":
                        break
            result = Result(self.queue(prompt))
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    event = _binary_event(message.data)
                else:
                    event = _take(result, message.json())
                if event == "end":
                    return result
                if event is not None:
                    on_event(event)
        raise ConnectionError("the server closed the connection before the prompt was done")


def _take(result: Result, message: dict) -> Event | str | None:
    """Note what a message says about the prompt; "end" for the last one."""
    kind = message["type"]
    data = message["data"]
    if data.get("prompt_id") != result.prompt_id:
        return None
    if kind == "execution_cached":
        result.cached = data["nodes"]
    elif kind in ("execution_error", "execution_interrupted"):
        result.status = kind.removeprefix("execution_")
        result.error = data
    elif kind == "progress":
        return Event("progress", data["node"], data["value"], data["max"])
    elif kind == "executed":
        result.outputs[data["node"]] = data["output"] or {}
        return Event("executed", data["node"], output=data["output"] or {})
    elif kind == "executing":
        if data["node"] is None:  # sent when the history holds the result
            return "end"
        result.executed.append(data["node"])
        return Event("executing", data["node"])
    return None


def _binary_event(data: bytes) -> Event | None:
    (kind,) = struct.unpack_from(">I", data)
    if kind == _TEXT:
        (length,) = struct.unpack_from(">I", data, 4)
        node = data[8 : 8 + length]
        text = data[8 + length :]
        return Event("text", node.decode(), text=text.decode())
    if kind == _PREVIEW_WITH_METADATA:
        (length,) = struct.unpack_from(">I", data, 4)
        metadata = json.loads(data[8 : 8 + length])
        return Event("preview", metadata["node_id"], image=data[8 + length :])
    if kind == _PREVIEW:
        return Event("preview", "", image=data[8:])
    return None
