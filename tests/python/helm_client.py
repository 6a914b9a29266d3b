"""Helm's own library, called as `helm package`, `helm registry login`, `helm push` and `helm show chart` call it.

    helm_client.py package CHART FOLDER     prints the path of the archive
    helm_client.py login HOST USER PASSWORD keeps the login under the home folder
    helm_client.py push ARCHIVE REMOTE      such as oci://HOST/charts
    helm_client.py show REFERENCE           pulls a chart into Helm's cache and prints its Chart.yaml
"""

import asyncio
import sys

import helm_sdkpy


async def main(action, *rest):
    configuration = helm_sdkpy.Configuration(plain_http=True)
    if action == "package":
        chart, folder = rest
        print(await helm_sdkpy.Package(configuration).run(chart, folder))
    elif action == "login":
        host, user, password = rest
        await helm_sdkpy.RegistryLogin(configuration).run(host, user, password, plain_http=True)
    elif action == "push":
        archive, remote = rest
        await helm_sdkpy.Push(configuration).run(archive, remote, plain_http=True)
    elif action == "show":
        (reference,) = rest
        print(await helm_sdkpy.Show(configuration).chart(reference))
    else:
        sys.exit(f"no such action: {action}")


asyncio.run(main(*sys.argv[1:]))
