"""The oras client of PyPI, used as its documentation does.

    oras_client.py login HOST USER PASSWORD          keeps the login under the home folder
    oras_client.py push TARGET FILE[:TYPE]...        the artifact's manifest holds these files
    oras_client.py push-chunked TARGET FILE[:TYPE]   the same, in chunks of 64 KiB
    oras_client.py attach TARGET SUBJECT FILE[:TYPE] the artifact speaks of the manifest SUBJECT (TYPE DIGEST SIZE)
    oras_client.py pull TARGET FOLDER
    oras_client.py tags TARGET
"""

import json
import os
import sys

import oras.client
import oras.oci


def main(action, target, *rest):
    host = target.split("/")[0]
    client = oras.client.OrasClient(hostname=host, insecure=True, auth_backend="basic")
    login = os.path.expanduser("~/.docker/config.json")
    if action == "login":
        user, password = rest
        answer = client.login(username=user, password=password, hostname=host, config_path=login)
        print(answer["Status"])
    elif action == "push":
        answer = client.push(target=target, files=list(rest), quiet=True)
        print(answer.headers["Docker-Content-Digest"])
    elif action == "push-chunked":
        answer = client.push(target=target, files=list(rest), quiet=True, do_chunked=True, chunk_size=65536)
        print(answer.headers["Docker-Content-Digest"])
    elif action == "attach":
        media_type, digest, size, *files = rest
        subject = oras.oci.Subject(media_type, digest, int(size))
        answer = client.push(target=target, files=files, quiet=True, subject=subject)
        print(json.dumps({name: answer.headers[name] for name in ("Docker-Content-Digest", "OCI-Subject")}))
    elif action == "pull":
        (folder,) = rest
        print("\n".join(client.pull(target=target, outdir=folder)))
    elif action == "tags":
        client.auth.load_configs(client.get_container(target), configs=[login])
        print("\n".join(client.get_tags(target)))
    else:
        sys.exit(f"no such action: {action}")


main(*sys.argv[1:])
