"""Reads a folder as an RO-Crate with the library that people use, and says what is wrong with it.

    ro_crate.py FOLDER      prints what ran, on what, and what came out of it, a line each
"""

import hashlib
import json
import pathlib
import sys
from urllib.parse import unquote

import rocrate
from rocrate.rocrate import ROCrate

# The terms of workflow-run that Torno uses; those of RO-Crate are in the library.
WORKFLOW_RUN = {"sha256"}


def main(folder):
    folder = pathlib.Path(folder)
    crate = ROCrate(folder)
    terms = defined_terms()
    for entity in crate.get_entities():
        for name, value in entity.properties().items():
            assert name.startswith("@") or name in terms, f"{name} of {entity.id} is no term"
            for link in value if isinstance(value, list) else [value]:
                if isinstance(link, dict):
                    known = link["@id"].startswith("https://w3id.org/ro/crate/") or crate.get(link["@id"])
                    assert known, f"{entity.id} speaks of {link['@id']}, which is not described"

    root = crate.root_dataset
    for name in ("name", "description", "datePublished", "license", "conformsTo"):
        assert root[name], f"the root has no {name}"
    assert root["conformsTo"].id == "https://w3id.org/ro/wfrun/process/0.5"
    files = [entity for entity in crate.data_entities if entity.type == "File"]
    for file in files:
        content = (folder / unquote(file.id)).read_bytes()
        assert len(content) == int(file["contentSize"]), file.id
        assert hashlib.sha256(content).hexdigest() == file["sha256"], file.id
    on_disk = {path.relative_to(folder).as_posix() for path in folder.glob("output/**/*") if path.is_file()}
    assert {unquote(file.id) for file in files} == on_disk, on_disk

    (action,) = crate.get_by_type("CreateAction")
    assert root["mentions"] is action or action in root["mentions"]
    for name in ("name", "description", "instrument", "agent", "endTime"):
        assert action[name], f"the action has no {name}"
    print("ran", action["instrument"]["name"])
    print("by", action["agent"]["name"])
    print("status", action["actionStatus"])
    for data in listed(action.get("object")):
        print("on", data["name"])
    for result in listed(action.get("result")):
        print("gave", result.id)


def defined_terms():
    bundled = pathlib.Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"
    return set(json.loads(bundled.read_text())["@context"]) | WORKFLOW_RUN


def listed(value):
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


main(*sys.argv[1:])
