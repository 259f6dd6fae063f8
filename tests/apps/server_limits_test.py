"""Runs `nostos serve` and checks what it lets in: keys, other sites, hostile requests, full queues; and what it tells its operator.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos server_limits_test.py [Operation] [Keys] [Pages] [Hostile] [Queue]. Exits with 77 if everything was
skipped. Draws with the embedded model. Needs Python 3.11 alone.
"""

import json
import os
import socket
import tempfile
import time
import unittest

from server_case import ServerTest, run_tests
from server_process import ENDLESS, SMALL, Server, basic, status_of


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class Operation(ServerTest):
    def test_made_up_clients_have_no_turns(self):
        blocker = self.server.submit(**ENDLESS)
        self.server.wait_for(blocker, "running")
        submit = lambda client: self.server.post("/v1/jobs", {"prompt": "x", **SMALL}, {"X-Client-Id": client}).json()["id"]
        jobs = [submit(client) for client in ("a", "a", "b")]
        self.assertEqual([self.server.job(job)["position"] for job in jobs], [1, 2, 3])
        self.server.request("DELETE", f"/v1/jobs/{blocker}")

    def test_the_page_runs_nothing_from_elsewhere_or_inline(self):
        policy = self.server.get("/", **BROWSER).headers["content-security-policy"]
        self.assertIn("default-src 'self'", policy)
        self.assertNotIn("unsafe", policy)

    def test_health_metrics_and_page(self):
        self.assertEqual(self.server.get("/health/live").json(), {"status": "ok"})
        self.server.wait_for(self.server.submit())
        text = self.server.get("/metrics").body.decode()
        self.assertRegex(text, r'nostos_jobs_total\{status="completed"\} [1-9]')
        self.assertRegex(text, r'nostos_stage_seconds_bucket\{stage="denoise",le="\+Inf"\} [1-9]')
        self.assertRegex(text, r"process_resident_memory_bytes [1-9]")
        page = self.server.get("/", **BROWSER)
        self.assertEqual(page.status, 200)
        self.assertIn("text/html", page.headers["content-type"])
        for accept in ("*/*", "application/json", ""):
            program = self.server.get("/", Accept=accept)
            self.assertEqual((program.json(), program.headers["vary"]), ({"model": "nostos-mini", "upscaler": None}, "Accept"), accept)
        self.assertEqual(page.headers["vary"], "Accept")
        self.assertEqual(self.server.get("/", **BROWSER, If_None_Match=page.headers["etag"]).status, 304)

    def test_request_ids_are_echoed_and_logged(self):
        self.assertEqual(self.server.get("/v1/jobs", X_Request_Id="my-id.1").headers["x-request-id"], "my-id.1")
        made = self.server.get("/v1/jobs", X_Request_Id="no id with spaces").headers["x-request-id"]
        self.assertTrue(made.startswith("req_"))
        self.server.wait_until(lambda: any('"request":"my-id.1"' in line for line in self.server.log))
        for line in list(self.server.log):
            self.assertIn("level", json.loads(line))

    def test_other_sites_are_refused(self):
        own = f"127.0.0.1:{self.server.port}"
        post = lambda origin: self.server.post("/v1/jobs", {"prompt": "x", **SMALL}, {"Origin": origin}).status
        self.assertEqual(post(f"http://{own}"), 202)
        self.assertEqual(post("http://evil.example"), 403)
        self.assertEqual(post("null"), 403)
        rebound = self.server.post("/v1/jobs", {"prompt": "x", **SMALL}, {"Origin": "http://evil.example", "Host": "evil.example"})
        self.assertEqual(rebound.status, 403)

    def test_links_begin_with_what_the_client_of_the_first_proxy_used(self):
        body = {"prompt": "x", **SMALL, "response_format": "url"}
        for headers, base in (({"X-Forwarded-Proto": "https"}, f"https://127.0.0.1:{self.server.port}"),
                              ({"X-Forwarded-Proto": "HTTPS, http", "X-Forwarded-Host": "draw.example, inner"}, "https://draw.example")):
            answer = self.server.post("/v1/images/generations", body, headers).json()
            self.assertTrue(answer["data"][0]["url"].startswith(base + "/v1/images/img_"), answer)

    def test_pictures_are_sent_in_parts(self):
        url = self.server.wait_for(self.server.submit())["images"][0]["url"]
        whole = self.server.get(url)
        size = len(whole.body)
        beyond = self.server.get(url, Range=f"bytes={10**30}-")
        self.assertEqual((beyond.status, beyond.headers["content-range"]), (416, f"bytes */{size}"))
        self.assertEqual(self.server.get(url, Range=f"Bytes=0-{10**30}").headers["content-range"], f"bytes 0-{size - 1}/{size}")
        tag = whole.headers["etag"]
        self.assertEqual(self.server.get(url, Range="bytes=1-2", If_Range=tag).body, whole.body[1:3])
        for other in (f"W/{tag}", '"other"'):
            self.assertEqual(self.server.get(url, Range="bytes=1-2", If_Range=other).body, whole.body)
        head = self.server.request("HEAD", url, headers={"Range": "bytes=1-2"})
        self.assertEqual((head.status, int(head.headers["content-length"])), (200, size))
        for same in ("*", f'"other", W/{tag}'):
            self.assertEqual(self.server.get(url, If_None_Match=same).status, 304)
        self.assertEqual(self.server.get(url, If_Match='"other"').status, 412)
        page = self.server.get("/", **BROWSER)
        self.assertEqual(self.server.get("/", **BROWSER, If_None_Match=f'"x", W/{page.headers["etag"]}').status, 304)

    def test_a_name_that_leads_here_is_refused_without_a_key(self):
        job = self.server.wait_for(self.server.submit())
        for host, status in (("evil.example", 403), (f"evil.example:{self.server.port}", 403), (f"localhost:{self.server.port}", 200)):
            for path in ("/v1/jobs", f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/events", job["images"][0]["url"], "/metrics"):
                self.assertEqual(self.server.get(path, Host=host).status, status, (host, path))
            self.assertEqual(self.server.get("/health/live", Host=host).status, 200)
        self.assertEqual(self.server.post("/sdapi/v1/interrupt", {}, {"Host": "evil.example"}).status, 403)

    def test_a_second_server_is_kept_from_the_folder(self):
        with self.assertRaisesRegex(RuntimeError, "another server uses it"):
            Server(data_dir=self.server.data_dir)

    def test_other_machines_need_a_key(self):
        with self.assertRaisesRegex(RuntimeError, "--api-key-file"):
            Server("--host", "0.0.0.0")
        with self.assertRaisesRegex(RuntimeError, "no IP address"):
            Server("--host", "somewhere")


class Keys(unittest.TestCase):
    def test_only_the_key_lets_in(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("  s3cret-key\n")
            file.flush()
            with Server("--api-key-file", file.name, "--host", "0.0.0.0") as server:
                for path in ("/", "/openapi.json", "/health/live", "/health/ready", "/internal/ping"):
                    self.assertEqual(server.get(path).status, 200)
                for path in ("/v1/jobs", "/metrics", "/sdapi/v1/progress", "/nowhere"):
                    answer = server.get(path)
                    self.assertEqual(answer.status, 401)
                    self.assertIn("www-authenticate", answer.headers)
                wrong = ("s3cret-ke", "s3cret-key1", "S3cret-key", "", "x" * 5000, "s3cret-keys3cret-key")
                for key in wrong:
                    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": basic(key)}, {"Cookie": f"nostos_key={key}"},
                                    {"Authorization": key}):
                        self.assertEqual(server.get("/v1/jobs", **headers).status, 401, headers)
                right = ({"Authorization": "Bearer s3cret-key"}, {"Authorization": basic("s3cret-key")},
                         {"Authorization": "bearer s3cret-key"}, {"Authorization": basic("s3cret-key").replace("Basic", "BASIC ")},
                         {"Cookie": "a=b; nostos_key=s3cret-key"}, {"Cookie": "nostos_key=s3cret%2Dkey"})
                for headers in right:
                    self.assertEqual(server.get("/v1/jobs", **headers).status, 200, headers)
                self.assertEqual(server.get("/v1/jobs", Host="draw.example", **right[0]).status, 200)
                body = json.dumps({"prompt": "x", **SMALL, "response_format": "url"}).encode()
                raw = server.raw(b"POST /v1/images/generations HTTP/1.0\r\nAuthorization: Bearer s3cret-key\r\n"
                                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
                self.assertEqual(status_of(raw), 400, raw)
                self.assertIn(b"Host", raw)
                self.assertFalse(any("s3cret" in line for line in server.log))


class Pages(ServerTest):
    flags = ("--allow-origin", "http://localhost:3000", "--allow-origin", "https://app.example")
    page = {"Origin": "https://app.example"}

    def check(self, answer, status: int):
        self.assertEqual((answer.status, answer.headers["access-control-allow-origin"]), (status, "https://app.example"), answer.body)
        self.assertEqual(answer.headers["vary"], "Origin")
        self.assertNotIn("access-control-allow-credentials", answer.headers)
        return answer

    def ask(self, path: str, origin: str):
        return self.server.request("OPTIONS", path, headers={"Origin": origin, "Access-Control-Request-Method": "POST",
                                                             "Access-Control-Request-Headers": "authorization,content-type"})

    def test_pages_of_named_origins_draw(self):
        asked = self.check(self.ask("/v1/images/generations", "https://app.example"), 204)
        self.assertEqual(asked.headers["access-control-allow-methods"], "POST, OPTIONS")
        self.assertEqual(asked.headers["access-control-allow-headers"], "authorization,content-type")
        self.assertEqual(asked.headers["access-control-max-age"], "600")
        self.check(self.server.post("/v1/images/generations", {"prompt": "x", **SMALL}, self.page), 200)
        job = self.check(self.server.post("/v1/jobs", {"prompt": "x", **SMALL}, self.page), 202).json()["id"]
        url = self.server.wait_for(job)["images"][0]["url"]
        self.check(self.server.request("GET", f"/v1/jobs/{job}/events", headers=self.page), 200)
        self.check(self.server.request("GET", url, headers={**self.page, "Range": "bytes=0-3"}), 206)
        stream = self.check(self.server.post("/v1/images/generations", {"prompt": "x", **SMALL, "stream": True}, self.page), 200)
        self.assertIn(b"image_generation.completed", stream.body)

    def test_pages_of_named_origins_read_what_went_wrong(self):
        self.check(self.server.post("/v1/images/generations", {"prompt": 5}, self.page), 400)
        self.check(self.server.request("GET", "/nowhere", headers=self.page), 404)
        self.check(self.server.post("/v1/jobs", b"x" * (2 << 20), self.page), 400)
        self.check(self.server.post("/sdapi/v1/options", b"x" * (2 << 20), self.page), 413)

    def test_pages_of_others_do_not(self):
        for origin in ("http://localhost:3001", "http://app.example", "https://app.example.evil", "null", "*"):
            for answer in (self.ask("/v1/jobs", origin), self.server.post("/v1/jobs", {"prompt": "x"}, {"Origin": origin})):
                self.assertEqual(answer.status, 403)
                self.assertNotIn("access-control-allow-origin", answer.headers)
                self.assertEqual(answer.headers["vary"], "Origin")
        self.assertNotIn("access-control-allow-origin", self.server.get("/v1/jobs").headers)

    def test_only_single_origins_can_be_named(self):
        for origin in ("*", "null", "https://*.example", "localhost:3000", "http://localhost:3000/app"):
            with self.assertRaisesRegex(RuntimeError, "--allow-origin"):
                Server("--allow-origin", origin)


class Hostile(ServerTest):
    def tearDown(self):
        super().tearDown()
        self.assertEqual(self.server.get("/health/live").status, 200)

    def test_bodies_over_the_limit(self):
        big = b'{"prompt": "' + b"x" * (32 << 20) + b'"}'
        head = b"POST /sdapi/v1/options HTTP/1.1\r\nHost: localhost\r\n"
        plain = self.server.raw(head + b"Content-Length: %d\r\n\r\n" % len(big) + big)
        self.assertEqual(status_of(plain), 413)
        chunks = b"".join(b"10000\r\n" + big[i : i + 65536] + b"\r\n" for i in range(0, 1 << 22, 65536))
        self.assertEqual(status_of(self.server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)), 413)
        one = b"%x\r\n" % (1 << 62) + big[: 1 << 21]
        self.assertIn(status_of(self.server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + one)), (400, 413))
        self.assertIn(status_of(self.server.raw(head + b"Content-Length: 99999999999999999999999\r\n\r\n")), (400, 413))
        self.assertEqual(status_of(self.server.raw(head + b"Content-Length: -1\r\n\r\n")), 400)

    def test_headers_over_the_limit(self):
        many = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(5000)) + b"\r\n"
        self.assertEqual(status_of(self.server.raw(many)), 431)
        endless = b"GET / HTTP/1.1\r\nX: " + b"y" * (64 << 20)
        self.assertIn(status_of(self.server.raw(endless)), (431, 0))  # 0: reset while it still sent
        long_path = b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n"
        self.assertEqual(status_of(self.server.raw(long_path)), 431)

    def test_json_that_is_none(self):
        cases = [b"", b"{", b"[]", b"null", b'"text"', b"[" * 500_000, b'{"a":' * 100_000, b'{"prompt": "\xff\xfe"}', b'{"prompt": "\\ud800"}',
                 b'{"prompt": "x",}', b"\x00" * 1000, b'{"prompt": "x"} trailing', b'{"prompt": 1e999}', b"\xef\xbb\xbf{", b'{"\xff": 1}',
                 b'{"prompt": "x", "n": ' + b"9" * 10_000 + b"}"]
        for path in ("/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/options"):
            for body in cases:
                with self.subTest(path=path, body=body[:30]):
                    answer = self.server.post(path, body)
                    if path != "/sdapi/v1/options":
                        self.assertEqual(answer.status, 400, answer.body)
                    self.assertLess(len(answer.body), 2000)
                    answer.json()

    def test_unusual_prompts_are_drawn(self):
        for prompt in ("", "\u0000", "é" * 1000, "😀\u202e\ufeff", "<|im_end|>", "a\nb\tc"):
            job = self.server.wait_for(self.server.submit(prompt=prompt))
            self.assertEqual(job["status"], "completed", job["error"])
            self.assertEqual(job["request"]["prompt"], prompt)

    def test_paths_and_ids_with_tricks(self):
        for path in ("/v1/images/../../jobs.sqlite", "/v1/images/..%2f..%2fjobs.sqlite", "/v1/images/%2e%2e%2fjobs.sqlite", "/../../etc/passwd",
                     "/%2e%2e/%2e%2e/etc/passwd", "/v1/jobs/%27%20OR%201=1--", "/v1/images/img_'%3B--", "/v1/jobs/" + "a" * 8000,
                     "/v1//jobs", "/v1/jobs/x/y/z", "/index.html/../x", "/v1/jobs/%F0%9F%98%80", "/v1/models/%20"):
            with self.subTest(path=path):
                self.assertEqual(self.server.get(path).status, 404)
        for path in (b"/%00", b"/%zz", b"/%f", b"/\xff", b"/?a=%", b"/%ff", b"*", b"ftp://x/", b"http://u@x/", b"/#a"):
            with self.subTest(path=path):
                raw = self.server.raw(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                self.assertEqual(status_of(raw), 400, raw[:100])
        for query in ("limit=0", "limit=201", "limit=x", "limit=1e3", "status=odd", "limit=99999999999999999999"):
            self.assertEqual(self.server.get("/v1/jobs?" + query).status, 400, query)
        self.assertEqual(self.server.get("/v1/jobs?before=%27").json()["data"], [])

    def test_methods(self):
        answer = self.server.request("PUT", "/v1/jobs", b"{}")
        self.assertEqual(answer.status, 405)
        self.assertEqual(answer.headers["allow"], "POST, GET, HEAD, OPTIONS")
        self.assertIsNone(answer.json()["error"]["param"])
        self.assertEqual(self.server.request("BREW", "/v1/jobs").status, 501)
        self.assertEqual(self.server.request("OPTIONS", "/nowhere").status, 404)
        allowed = {"/v1/jobs": "POST, GET, HEAD, OPTIONS", "/v1/jobs/x": "GET, HEAD, DELETE, OPTIONS", "/v1/images/x": "GET, HEAD, OPTIONS",
                   "/v1/images/generations": "POST, OPTIONS", "/sdapi/v1/options": "GET, HEAD, POST, OPTIONS", "/": "GET, HEAD, OPTIONS",
                   "/app.js": "GET, HEAD, OPTIONS", "/health/live": "GET, HEAD, OPTIONS", "*": "DELETE, GET, HEAD, OPTIONS, POST"}
        for path, methods in allowed.items():
            answer = self.server.request("OPTIONS", path)
            self.assertEqual((answer.status, answer.headers["allow"], answer.body), (204, methods, b""), path)
        self.assertEqual(self.server.get("/v1/images/generations").headers["allow"], "POST, OPTIONS")
        for path in ("/", "/app.js", "/v1/jobs", "/v1/models", "/metrics", "/health/live", "/sdapi/v1/progress"):
            self.assertEqual(self.server.request("HEAD", path).status, 200, path)
        job = self.server.submit()
        self.assertEqual(self.server.request("HEAD", f"/v1/jobs/{job}/events").status, 200)

    def test_targets_of_the_absolute_form_name_the_host(self):
        for target, host, status in ((b"http://localhost/v1/jobs", b"evil.example", 200), (b"http://evil.example/v1/jobs", b"localhost", 403)):
            raw = self.server.raw(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
            self.assertEqual(status_of(raw), status, raw)

    def test_pictures_are_not_varied_here(self):
        form = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx\r\n--x--\r\n'
        path = "/v1/images/variations"
        for body in (form, form * 40_000):  # pictures are often larger than any body may be
            answer = self.server.post(path, body, {"Content-Type": "multipart/form-data; boundary=x"})
            self.assertEqual(answer.status, 501)
            self.assertIn(f"{path} is not served here: to have a picture drawn anew", answer.body.decode())
        self.assertEqual(self.server.get(path).headers["allow"], "POST, OPTIONS")

    def test_pictures_that_are_none_are_refused(self):
        for path in ("/v1/jobs", "/v1/images/generations"):
            answer = self.server.post(path, {"prompt": "x", "image": "iVBORw0KGgo="})
            self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, "image[0]"))
            answer = self.server.post(path, {"prompt": "x", "image": ["iVBORw0KGgo="] * 2})
            self.assertEqual((answer.status, answer.json()["error"]["param"]), (400, "image"))
            self.assertIn("this model takes one", answer.body.decode())

    def test_coded_bodies_are_refused(self):
        answer = self.server.post("/v1/jobs", b"x", {"Content-Encoding": "gzip"})
        self.assertEqual((answer.status, answer.json()["error"]["param"]), (415, "Content-Encoding"))

    def test_garbage(self):
        for data in (b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n",
                     b"GET / HTTP/1.1\r\nA\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
                     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", os.urandom(5000), b"\0" * 5000):
            with self.subTest(data=data[:30]):
                raw = self.server.raw(data, timeout=15, half_close=True)
                self.assertIn(status_of(raw), (400, 413, 431, 505, 0), raw[:200])

    def test_smuggling_is_refused(self):
        raw = self.server.raw(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        self.assertEqual(status_of(raw), 400)

    def test_pipelined_requests_are_answered_in_order(self):
        get = lambda name: b"GET /v1/jobs?limit=1 HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %s\r\n\r\n" % name
        raw = self.server.raw(get(b"one") + get(b"two") + get(b"three") + b"garbage\r\n\r\n", timeout=15)
        self.assertEqual([raw.find(b"X-Request-Id: " + name) > 0 for name in (b"one", b"two", b"three")], [True] * 3)
        self.assertLess(raw.find(b"one"), raw.find(b"two"))
        self.assertLess(raw.find(b"two"), raw.find(b"three"))
        self.assertEqual(raw.count(b"HTTP/1.1 200"), 3)
        self.assertEqual(raw.count(b"HTTP/1.1 400"), 1)

    def test_old_clients_and_continue(self):
        raw = self.server.raw(b"GET /health/live HTTP/1.0\r\n\r\n")
        self.assertTrue(raw.endswith(b'{"status":"ok"}'), raw)
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 100"))
            connection.sendall(b"{}")
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 400"))

    def test_requests_without_one_host(self):
        for headers in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
            raw = self.server.raw(b"GET /health/live HTTP/1.1\r\n%sConnection: close\r\n\r\n" % headers)
            self.assertEqual(status_of(raw), 400, raw)
        raw = self.server.raw(b"GET /v1/jobs HTTP/1.0\r\n\r\n")
        self.assertEqual(status_of(raw), 403, raw)

    def test_requests_cut_off_anywhere(self):
        whole = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n" + b'{"prompt":5,"size":1'
        for length in range(0, len(whole), 3):
            with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
                connection.sendall(whole[:length])

    def test_a_slow_client_is_given_up(self):
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as connection:
            answer = b""
            try:
                for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100:
                    connection.sendall(bytes([byte]))
                    connection.settimeout(0.2)
                    try:
                        answer = connection.recv(1000)
                        break
                    except TimeoutError:
                        pass
            except (ConnectionResetError, BrokenPipeError):
                pass
        self.assertEqual(status_of(answer), 408, answer)
        self.assertLess(time.monotonic() - start, 15)  # header time-out 10 s


class Queue(ServerTest):
    flags = ("--queue", "3", "--trust-client-id")

    def cancel(self, *jobs: str):
        for job in jobs:
            self.server.request("DELETE", f"/v1/jobs/{job}")
        for job in jobs:
            self.server.wait_for(job)

    def block(self) -> str:
        job = self.server.submit(**ENDLESS)
        self.server.wait_for(job, "running")
        return job

    def test_a_full_queue_refuses_and_recovers(self):
        blocker = self.block()
        body = {"prompt": "keyed", **SMALL}
        keyed = self.server.post("/v1/jobs", body, {"Idempotency-Key": "full"}).json()["id"]
        jobs = [keyed, *(self.server.submit() for _ in range(2))]
        retried = self.server.post("/v1/jobs", body, {"Idempotency-Key": "full"})
        self.assertEqual((retried.status, retried.json()["id"]), (202, keyed))
        for path, body in (("/v1/jobs", {"prompt": "x"}), ("/v1/images/generations", {"prompt": "x"}), ("/sdapi/v1/txt2img", {"prompt": "x"}),
                           ("/v1/images/generations", {"prompt": "x", "stream": True})):
            answer = self.server.post(path, body)
            self.assertEqual(answer.status, 503, answer.body)
            self.assertGreater(int(answer.headers["retry-after"]), 0)
        self.cancel(blocker)
        self.assertEqual([self.server.wait_for(job)["status"] for job in jobs], ["completed"] * 3)
        self.server.wait_for(self.server.submit())

    def test_clients_take_turns(self):
        blocker = self.block()
        submit = lambda client, seed: self.server.post("/v1/jobs", {"prompt": "x", **SMALL, "seed": seed}, {"X-Client-Id": client}).json()["id"]
        first, second, other = submit("a", 1), submit("a", 2), submit("b", 3)
        self.assertEqual([self.server.job(job)["position"] for job in (first, other, second)], [1, 2, 3])
        self.cancel(blocker)
        ends = {job: self.server.wait_for(job)["finished_at"] for job in (first, second, other)}
        self.assertLess(ends[other], ends[second])

    def leaves(self, path: str, body: dict):
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connection = socket.create_connection(("127.0.0.1", self.server.port))
        connection.sendall(head + data)
        newest = lambda: self.server.get("/v1/jobs?limit=1").json()["data"]
        self.server.wait_until(lambda: newest() and newest()[0]["request"]["prompt"] == body["prompt"])
        job = newest()[0]["id"]
        return connection, job

    def test_a_client_that_leaves_frees_its_slot(self):
        endless = {"prompt": "leaver", "steps": 1000, "num_inference_steps": 1000, "width": 256, "height": 256}
        for number, (path, extra) in enumerate((("/v1/images/generations", {}), ("/sdapi/v1/txt2img", {}), ("/v1/images/generations", {"stream": True}))):
            connection, job = self.leaves(path, {**endless, **extra, "prompt": f"runs {number}"})
            self.server.wait_for(job, "running")
            connection.close()
            self.assertEqual(self.server.wait_for(job)["status"], "cancelled")
        blocker = self.block()
        connection, job = self.leaves("/v1/images/generations", {**endless, "prompt": "waits"})
        connection.close()
        self.assertEqual(self.server.wait_for(job)["status"], "cancelled")
        self.cancel(blocker)

    def test_a_client_that_ends_its_sending_alone_gets_its_picture(self):
        body = json.dumps({"prompt": "half", **SMALL, "num_inference_steps": 30}).encode()
        for version, stream in ((b"1.1", False), (b"1.0", False), (b"1.1", True)):
            data = body[:-1] + b', "stream": true}' if stream else body
            head = b"POST /v1/images/generations HTTP/%s\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (version, len(data))
            raw = self.server.raw(head + data, timeout=60, half_close=True)
            self.assertIn(b"HTTP/%s 200 OK\r\n" % version, raw)
            self.assertIn(b"b64_json", raw)

    def test_a_watcher_that_leaves_stops_nothing(self):
        job = self.server.submit(num_inference_steps=100, width=128, height=128)
        connection = socket.create_connection(("127.0.0.1", self.server.port))
        connection.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.recv(100)
        connection.close()
        self.assertEqual(self.server.wait_for(job)["status"], "completed")


if __name__ == "__main__":
    run_tests()
