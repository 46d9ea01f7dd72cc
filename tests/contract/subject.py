"""One server under the contract, reached by plain HTTP."""

import http.client
import json
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

KEY = "a-key"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Subject:
    root: str
    model: str
    dimensions: int
    context: int
    key: str | None = None

    def introduced(self) -> "Subject":
        """The subject, with the model, dimensions and context that the server reports."""
        card = self.get("/v1/models").json["data"][0]
        vector = self.post("/v1/embeddings", {"model": card["id"], "input": "x"}).json["data"][0]["embedding"]
        return replace(self, model=card["id"], dimensions=len(vector), context=card["max_model_len"])

    def get(self, path: str, key: str | None = "own") -> Answer:
        return self._ask("GET", path, None, key)

    def post(self, path: str, body: Any, key: str | None = "own") -> Answer:
        return self._ask("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), key)

    def embed(self, texts: Any, **more: Any) -> Answer:
        return self.post("/v1/embeddings", {"model": self.model, "input": texts, **more})

    def _ask(self, method: str, path: str, body: bytes | None, key: str | None) -> Answer:
        parts = urlsplit(self.root)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        key = self.key if key == "own" else key
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()
