"""An identity provider over TLS, as far as Torno asks one (OpenID Connect Core 1.0, section 3.1).

Its folder holds `provider.pem` and `provider.key` for TLS, and `signing.key`, an RSA key. A file `codes/CODE` stands for
somebody who has logged in: what belongs to their login, in JSON, used once. What it holds under `answer` replaces parts of
what is answered, so that it can be wrong in one way.
"""

import base64
import hashlib
import http.server
import json
import pathlib
import ssl
import subprocess
import sys
import time
import urllib.parse

FOLDER = pathlib.Path(sys.argv[1])
CLIENT = "torno:client"
SECRET = "a secret%with/signs"


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, data=b""):
    return subprocess.run(["openssl", *arguments], input=data, check=True, stdout=subprocess.PIPE).stdout


def public_key(key):
    modulus = openssl("rsa", "-in", str(FOLDER / key), "-noout", "-modulus").decode().strip().split("=")[1]
    return {"kty": "RSA", "use": "sig", "kid": "one", "n": encode(bytes.fromhex(modulus)), "e": "AQAB"}


def signed(claims, algorithm, key):
    head = {"alg": algorithm, "typ": "JWT", "kid": "one"}
    text = f"{encode(json.dumps(head).encode())}.{encode(json.dumps(claims).encode())}"
    if algorithm == "none":
        return f"{text}."
    return f"{text}.{encode(openssl('dgst', '-sha256', '-sign', str(FOLDER / key), data=text.encode()))}"


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, value, **headers):
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/site/.well-known/openid-configuration":
            found = {
                "issuer": f"{BASE}/site",
                "authorization_endpoint": f"{BASE}/site/authorize?theme=plain",
                "token_endpoint": f"{BASE}/site/token",
                "jwks_uri": f"{BASE}/site/keys",
            }
            changed = FOLDER / "configuration"
            if changed.exists():
                found.update(json.loads(changed.read_text()))
            location = found.pop("redirect", None)
            if location:
                self.answer(302, {}, Location=location)
            else:
                self.answer(200, found)
        elif self.path == "/site/keys":
            self.answer(200, {"keys": [public_key("signing.key")]})
        else:
            self.answer(404, {})

    def do_POST(self):
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in urllib.parse.parse_qs(form).items()}
        basic = ":".join(urllib.parse.quote(part, safe="") for part in (CLIENT, SECRET))
        if self.headers["Authorization"] != "Basic " + base64.b64encode(basic.encode()).decode():
            self.answer(401, {"error": "invalid_client"})
            return
        code = FOLDER / "codes" / form["code"]
        if form["grant_type"] != "authorization_code" or not code.parent.samefile(FOLDER / "codes") or not code.exists():
            self.answer(400, {"error": "invalid_grant"})
            return
        login = json.loads(code.read_text())
        code.unlink()
        challenge = encode(hashlib.sha256(form["code_verifier"].encode()).digest())
        if challenge != login["code_challenge"] or form["redirect_uri"] != login["redirect_uri"]:
            self.answer(400, {"error": "invalid_grant"})
            return
        now = int(time.time())
        claims = {"iss": f"{BASE}/site", "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 60, "nonce": login["nonce"]}
        claims.update(login["claims"])
        token = signed(claims, login.get("algorithm", "RS256"), login.get("key", "signing.key"))
        self.answer(200, {"access_token": "x", "token_type": "Bearer", "id_token": token})

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
BASE = f"https://127.0.0.1:{server.server_port}"
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(FOLDER / "provider.pem", FOLDER / "provider.key")
server.socket = tls.wrap_socket(server.socket, server_side=True)
(FOLDER / "base.new").write_text(BASE)
(FOLDER / "base.new").rename(FOLDER / "base")
server.serve_forever()
