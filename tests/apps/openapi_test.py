"""Checks /openapi.json of `nostos serve` against its answers. server_routes_test.cc checks that it names every route.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos openapi_test.py [Document] [Schemathesis]. Document checks some answers with jsonschema, Schemathesis has
schemathesis make requests for every operation; each is skipped, saying so, without its package (scripts/test.sh installs both).
"""

import unittest

from server_case import BOUNDARY, ServerTest, form, run_tests
from server_process import SMALL

try:
    import jsonschema
except ImportError:
    jsonschema = None
try:
    import hypothesis
    import schemathesis
except ImportError:
    schemathesis = None

METHODS = {"get", "post", "delete"}


def operations(document: dict) -> list[tuple[str, str, dict]]:
    """Returns method, path and operation of each."""
    return [(method, path, item[method]) for path, item in document["paths"].items() for method in item if method in METHODS]


@unittest.skipIf(jsonschema is None, "jsonschema is not installed for this Python")
class Document(ServerTest):
    def schema(self, document: dict, response: dict) -> dict | None:
        """Returns the schema of the JSON of a response of the document, which may refer to all of it."""
        while "$ref" in response:
            response = document["components"]["responses"][response["$ref"].split("/")[-1]]
        content = response.get("content", {}).get("application/json", {})
        return {**content["schema"], "components": document["components"]} if "schema" in content else None

    def check(self, document: dict, method: str, path: str, answer) -> bool:
        """Fails unless the answer is as the document says. Returns whether it is JSON with a schema."""
        responses = document["paths"][path][method]["responses"]
        schema = self.schema(document, responses.get(str(answer.status), responses["default"]))
        if schema is None or answer.headers.get("content-type") != "application/json":
            return False
        jsonschema.validate(answer.json(), schema, cls=jsonschema.Draft202012Validator)
        return True

    def test_answers_are_as_it_says(self):
        answer = self.server.get("/openapi.json")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"))
        document = answer.json()
        names = [(method, path) for method, path, _ in operations(document)]
        job = self.server.wait_for(self.server.submit(n=2))
        ids = {"/v1/models": "nostos-mini", "/v1/images": job["images"][0]["id"], "/v1/jobs": job["id"]}
        checked = 0
        for method, path in names:
            if method != "get" or path.endswith("/events"):
                continue
            place = path.replace("{id}", ids.get(path.split("/{")[0], ""))
            with self.subTest(path=path):
                answer = self.server.get(place, Accept="*/*")
                self.assertEqual(answer.status, 200)
                checked += self.check(document, method, path, answer)
        self.assertGreater(checked, 25)
        small = {"prompt": "x", **SMALL}
        bodies = {"/v1/jobs": small, "/v1/images/generations": small, "/sdapi/v1/txt2img": {"prompt": "x", "width": 64, "height": 64, "steps": 1}}
        for method, path in names:
            if method != "post":
                continue
            for body in (bodies.get(path, {}), {"prompt": 5}):
                with self.subTest(path=path, body=body):
                    self.assertTrue(self.check(document, method, path, self.server.post(path, body)))
        edit = form(*((name, None, str(value)) for name, value in small.items()), ("image", "a.png", self.server.get(job["images"][0]["url"]).body))
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        answer = self.server.post("/v1/images/edits", edit, headers)
        self.assertEqual(answer.status, 200, answer.body[:300])
        self.assertTrue(self.check(document, "post", "/v1/images/edits", answer))
        for path in (f"/v1/jobs/{job['id']}?forget=true", f"/v1/jobs/{job['id']}"):
            self.assertTrue(self.check(document, "delete", "/v1/jobs/{id}", self.server.request("DELETE", path)))


@unittest.skipIf(schemathesis is None, "schemathesis is not installed for this Python")
class Schemathesis(ServerTest):
    """Requests that schemathesis makes of the document, right and wrong ones, for every operation."""

    # What is drawn is small, and little waits: the server's speed is not what is tested.
    flags = ("--max-pixels", "4096", "--queue", "4")

    def test_every_operation(self):
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{self.server.port}/openapi.json")
        checks = [getattr(schemathesis.checks, name) for name in ("content_type_conformance", "response_schema_conformance",
                                                                  "response_headers_conformance", "status_code_conformance")]
        seen = set()
        for result in schema.get_all_operations():
            operation = result.ok()
            with self.subTest(operation=operation.label):
                seen |= {(operation.label, status) for status in self.statuses(operation, checks)}
        self.assertGreater(len({label for label, _ in seen}), 50)
        self.assertLessEqual({("POST /v1/jobs", 202), ("POST /v1/images/generations", 200), ("POST /sdapi/v1/txt2img", 200)}, seen)

    def statuses(self, operation, checks) -> set[int]:
        """Tries an operation, and returns the statuses of the answers. A full queue and a refusal are answers, too."""
        found = set()
        modes = schemathesis.GenerationMode
        right, wrong = (operation.as_strategy(generation_mode=mode) for mode in (modes.POSITIVE, modes.NEGATIVE))

        @hypothesis.given(case=hypothesis.strategies.one_of(right.map(drawable), wrong))
        @hypothesis.settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
        def attempt(case):
            response = case.call(timeout=120)
            assert response.status_code != 500, response.content
            case.validate_response(response, checks=checks)
            found.add(response.status_code)

        attempt()
        return found


def drawable(case):
    """Leaves out of a right request what the document does not know that this server lacks, and makes it small."""
    if isinstance(case.body, dict):
        for field in ("image", "mask", "mask_blur", "strength", "control", "loras", "alwayson_scripts", "size"):
            case.body.pop(field, None)
        small = {"width": 64, "height": 64, "num_inference_steps": 2, "steps": 2, "n": 2, "batch_size": 2, "n_iter": 1, "max_sequence_length": 512}
        case.body |= {field: min(value, small[field]) for field, value in case.body.items() if field in small}
        if {"prompt", "steps"} & set(case.body):
            case.body |= {"width": 64, "height": 64}
    return case


if __name__ == "__main__":
    run_tests()
