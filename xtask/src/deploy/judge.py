"""What others say of the files under deploy/: Helm, the schemas of Kubernetes and of Compose.

Run by `cargo xtask`, with the packages of requirements.txt in PYTHONPATH. In: a verb and files.
Out: what was rendered, or a line for each file; what is wrong goes to stderr, with exit code 1.
"""

import importlib.util
import json
import pathlib
import sys

# Of other projects' own kinds there is no schema in kubernetes-validate.
FOREIGN = "monitoring.coreos.com/"


def lint(chart, values):
    """What Helm has to say of the chart, warnings as errors."""
    import helm_python

    report = helm_python.lint(chart, json.loads(values), strict=True, quiet=True)
    wrong = [str(error) for error in report["errors"]]
    wrong += [m["error"] for m in report["messages"] if m["severity"] >= 2]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"Helm {helm_python.helm_sdk_version()}: {chart} is a chart without a warning")


def render(chart, values):
    """The manifests by template, as JSON; without a cluster."""
    import helm_python

    with helm_python.Chart.load(chart) as loaded:
        loaded.validate_schema(json.loads(values))
        rendered = loaded.render(json.loads(values), name="why502", namespace="why502")
    json.dump(rendered, sys.stdout)


def kubernetes(*paths):
    """Each document against the schemas of each version that the chart says it is for."""
    import kubernetes_validate
    import yaml

    versions = [v for v in kubernetes_validate.utils.all_versions()]
    versions = sorted({kubernetes_validate.utils.major_minor(v) for v in versions}, key=minor)
    for path in paths:
        with open(path) as file:
            documents = [d for d in yaml.load_all(file, Loader=yaml.SafeLoader) if d]
        kinds = []
        for document in documents:
            kind = document["kind"]
            if document["apiVersion"].startswith(FOREIGN):
                kinds.append(f"{kind} (no schema)")
                continue
            for version in versions:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except Exception as error:
                    sys.exit(f"{path}: {kind}, Kubernetes {version}: {error}")
            kinds.append(kind)
        if not kinds:
            sys.exit(f"{path}: no manifest in it")
        print(f"{path}: {', '.join(kinds)}: valid, {versions[0]} to {versions[-1]}")


def minor(version):
    return [int(part) for part in version.split(".")]


def compose(path):
    """A compose file against the schema of the Compose specification."""
    import jsonschema
    import yaml

    # Only the file is wanted of that package: it is found without running it.
    package = importlib.util.find_spec("check_jsonschema").submodule_search_locations[0]
    schema = pathlib.Path(package, "builtin_schemas/vendor/compose-spec.json")
    with open(path) as file:
        document = yaml.load(file, Loader=yaml.SafeLoader)
    try:
        jsonschema.validate(document, json.loads(schema.read_text()))
    except jsonschema.ValidationError as error:
        sys.exit(f"{path}: {error.json_path}: {error.message}")
    print(f"{path}: {len(document['services'])} services, as the Compose specification has it")


if __name__ == "__main__":
    verbs = {verb.__name__: verb for verb in (lint, render, kubernetes, compose)}
    verbs[sys.argv[1]](*sys.argv[2:])
