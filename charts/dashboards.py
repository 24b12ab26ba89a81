#!/usr/bin/env python3
"""Checks the chart's dashboards and alerts: that they use what Tidegate's programs export, and that their queries answer.

  dashboards.py check             their form, and every metric and label by the instruments in the code; needs nothing else
  dashboards.py rules             every query as a rule, on standard output, for `promtool check rules`
  dashboards.py ask URL [--unseen METRIC]... [--firing ALERT]...
                                  every query, of a Prometheus that scrapes the programs: each has an answer, and each metric
                                  the labels by which it is asked; --unseen is what these programs cannot show there
"""

import argparse
import json
import math
import re
import sys
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "charts/tidegate/files"
PROGRAMS = {"operator": "operator/src", "ingress": "ingress/src", "sidecar": "handler-sidecar/src"}
# What a scrape adds to each series: as a PodMonitor of the chart does.
TARGET_LABELS = {"namespace", "pod", "container", "job", "instance"}
PANELS = {"row", "stat", "timeseries", "table", "bargauge"}
BUILT_IN = {"__rate_interval", "__range", "__all", "datasource"}
UNITS = {"s": "seconds", "By": "bytes", "1": "ratio"}
WORDS = {"and", "or", "unless", "bool", "inf", "nan"}
WINDOWS = {"$__rate_interval": "20s", "$__range": "1m"}

CHAIN = r'\.[a-z0-9]+_(?:observable_)?(up_down_counter|counter|gauge|histogram)\(\s*"([^"]+)"\s*\)(.*?)\.build\(\)'
# The figures of resources (operator/src/reconcile/figures.rs): in tables, and the condition Ready.
FIGURE = r'\(\s*"(tidegate\.[a-z._]+)",\s*"([^"]*)",\s*"'
READINESS = r'\breadiness\([^;]*?"(tidegate\.[a-z.]+)"'
ATTRIBUTE = r'(?:KeyValue::new|named)\(\s*"([^"]+)"|const [A-Z_]+: &str = "([a-z]+(?:\.[a-z_]+)+)"'


# --- what the code exports ---------------------------------------------------------------------------------------------


def prometheus_names(kind, name, unit):
    """The names of the series of an instrument, as the exporter writes them (crates/telemetry/src/scrape.rs)."""
    name = name.replace(".", "_")
    suffix = UNITS.get(unit)
    if suffix and not name.endswith(f"_{suffix}"):
        name += f"_{suffix}"
    if kind == "counter" and not name.endswith("_total"):
        name += "_total"
    return [name + part for part in ("_bucket", "_sum", "_count")] if kind == "histogram" else [name]


def code(folder):
    """The Rust code of a folder, without tests: they have instruments and attributes of their own."""
    files = [path.read_text() for path in sorted((ROOT / folder).rglob("*.rs")) if "tests" not in f"{path.parent.name}/{path.name}"]
    return "\n".join(file.split("#[cfg(test)]\nmod tests")[0] for file in files)


def exported():
    """Every metric, with the labels that its program knows: more than it has, but no others."""
    metrics, resource = {}, set()
    for folder in PROGRAMS.values():
        text = code(folder)
        attributes = {"".join(found).replace(".", "_") for found in re.findall(ATTRIBUTE, text)}
        resource |= attributes
        instruments = [(kind, name, "".join(re.findall(r'with_unit\("([^"]*)"\)', chain)))
                       for kind, name, chain in re.findall(CHAIN, text, re.DOTALL)]
        instruments += [("gauge", name, unit) for name, unit in re.findall(FIGURE, text)]
        instruments += [("gauge", name, "") for name in re.findall(READINESS, text)]
        for kind, name, unit in instruments:
            for series in prometheus_names(kind, name, unit):
                metrics[series] = attributes | ({"le"} if series.endswith("_bucket") else set())
    text = (ROOT / "crates/telemetry/src/resource.rs").read_text()
    resource |= {key.lower() for key in re.findall(r"\bkey::([A-Z0-9_]+)", text)}
    metrics["target_info"] = resource
    return metrics


# --- what dashboards and alerts use ------------------------------------------------------------------------------------


class Query:
    """A PromQL expression: the metrics that it reads with the labels that select them, and the labels that it keeps."""

    def __init__(self, where, expression, legend=""):
        self.where, self.expression = where, expression
        self.legend = set(re.findall(r"{{\s*([a-z0-9_]+)\s*}}", legend))
        values = re.findall(r'\w\s*=~?\s*"([^"$.]+)"', expression)
        self.values = {value for found in values for value in found.split("|")}
        text = re.sub(r'"(?:\\.|[^"\\])*"', '""', expression)
        text = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", "", text)
        grouping = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"
        self.kept = {label.strip() for found in re.findall(grouping, text) for label in found.split(",") if label.strip()}
        text = re.sub(grouping, "", text)
        self.selectors = {}
        for name, labels in re.findall(r"(?<![\w:])([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?(?!\s*\(|[\w:{])", text):
            if name not in WORDS:
                self.selectors.setdefault(name, set()).update(re.findall(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=|!)", labels))

    def problems(self, metrics, texts=None):
        """What these metrics (name to labels) do not have; where `texts` are given, also values of labels that are none of them."""
        unknown = self.selectors.keys() - metrics.keys()
        yield from (f"{self.where}: there is no metric {name}" for name in sorted(unknown))
        if unknown:
            return
        for name, labels in self.selectors.items():
            for label in sorted(labels - metrics[name] - TARGET_LABELS):
                yield f"{self.where}: {name} has no label {label}"
        known = TARGET_LABELS.union(*(metrics[name] for name in self.selectors))
        for label in sorted(self.kept - known):
            yield f"{self.where}: none of its metrics has the label {label}"
        for label in sorted(self.legend - self.kept):
            yield f"{self.where}: the legend has {label}, which the query does not keep"
        for value in sorted(self.values - texts) if texts else ():
            yield f"{self.where}: no label has the value {value}, which is nowhere in the code"


def dashboards():
    found = {path.stem: json.loads(path.read_text()) for path in sorted((FILES / "dashboards").glob("*.json"))}
    return found or sys.exit(f"there are no dashboards in {FILES}/dashboards")


def variables(board):
    """Name, metric selector and label of each variable that Prometheus is asked for."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            inside = re.fullmatch(r"label_values\((.+), ([a-z0-9_]+)\)", variable["query"]["query"])
            yield (variable["name"], *inside.groups())


def panel_queries(name, board):
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            where = f"{name}, panel '{panel['title']}' {target['refId']}"
            yield Query(where, target["expr"], target.get("legendFormat", ""))


def alert_queries():
    text = (FILES / "prometheus/rules.yaml").read_text()
    for alert, expression in re.findall(r"- alert: (\w+)\n +expr: >-\n((?: {6,}.+\n)+)", text):
        yield Query(f"alert {alert}", expression)
    for series in re.findall(r"series: '([^']+)'", (ROOT / "charts/rules.test.yaml").read_text()):
        query = Query("charts/rules.test.yaml", series)
        query.values = set()  # Names that the tests made up.
        yield query


def all_queries():
    for name, board in dashboards().items():
        for variable, selector, label in variables(board):
            yield Query(f"{name}, variable {variable}", f"count by ({label}) ({selector})")
        yield from panel_queries(name, board)
    yield from alert_queries()


# --- check -------------------------------------------------------------------------------------------------------------


def form_problems(name, board):
    """What Grafana would show in a way that nobody wants."""
    if board["uid"] != f"tidegate-{name}" or "tidegate" not in board["tags"]:
        yield f"{name}: its uid is not tidegate-{name}, or it lacks the tag"
    defined = {variable["name"] for variable in board["templating"]["list"]}
    for used in set(re.findall(r"\$\{?([a-zA-Z_]+)", json.dumps(board))) - defined - BUILT_IN:
        yield f"{name}: nothing defines ${used}"
    for variable in defined - set(re.findall(r"\$\{?([a-zA-Z_]+)", json.dumps(board["panels"]))):
        yield f"{name}: no panel uses ${variable}"
    taken, ids = {}, [panel["id"] for panel in board["panels"]]
    if len(set(ids)) != len(ids):
        yield f"{name}: two panels have the same id"
    for panel in board["panels"]:
        where, place = f"{name}, panel '{panel['title']}'", panel["gridPos"]
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            if cell[0] >= 24 or cell in taken:
                yield f"{where}: it lies on {taken.get(cell, 'the edge')}"
                break
            taken[cell] = panel["title"]
        if panel["type"] not in PANELS:
            yield f"{where}: {panel['type']} is none of {', '.join(sorted(PANELS))}"
        if panel["type"] == "row":
            continue
        if panel["datasource"] != {"type": "prometheus", "uid": "${datasource}"}:
            yield f"{where}: it does not use the variable datasource"
        if not panel["description"].endswith(".") or not panel["targets"]:
            yield f"{where}: it has no description, or asks for nothing"
        if "unit" not in panel["fieldConfig"]["defaults"]:
            yield f"{where}: it has no unit"


def check():
    metrics, queries = exported(), list(all_queries())
    texts = set(re.findall(r'"([^"\\\n]*)"', "\n".join(code(folder) for folder in [*PROGRAMS.values(), "crates", "crds"])))
    problems = [problem for name, board in dashboards().items() for problem in form_problems(name, board)]
    problems += [problem for query in queries for problem in query.problems(metrics, texts)]
    for problem in problems:
        print(problem)
    used = {name for query in queries for name in query.selectors}
    print(f"dashboards and alerts: {len(queries)} queries, {len(used)} of {len(metrics)} series names of the code, {len(problems)} problems")
    return not problems


def rules():
    named = [{"record": f"query:{number}", "expr": filled(query.expression, {})} for number, query in enumerate(all_queries())]
    print(json.dumps({"groups": [{"name": "queries", "rules": named}]}, indent=1))
    return True


# --- ask ---------------------------------------------------------------------------------------------------------------


def filled(expression, values):
    for name, window in WINDOWS.items():
        expression = expression.replace(name, window)
    return re.sub(r"\$([a-z]+)", lambda found: values.get(found[1], ".*"), expression)


class Prometheus:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def get(self, path, **parameters):
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def labels(self):
        """Every metric that was scraped, with the labels that it has."""
        metrics = {}
        for series in self.get("series", **{"match[]": '{__name__=~".+"}'}):
            metrics.setdefault(series["__name__"], set()).update(series.keys() - {"__name__"})
        return metrics

    def answers(self, expression):
        """How many series with a number there are."""
        result = self.get("query", query=expression)["result"]
        return sum(not math.isnan(float(series["value"][1])) for series in result)


def ask(url, unseen, firing):
    prometheus, problems, answered = Prometheus(url), [], 0
    seen = prometheus.labels()
    problems += [f"{metric} is scraped: --unseen is wrong" for metric in unseen if metric in seen]
    for query in all_queries():
        if not unseen & query.selectors.keys():
            problems += query.problems(seen)
    for name, board in dashboards().items():
        values = {}
        for variable, selector, label in variables(board):
            found = prometheus.get(f"label/{label}/values", **{"match[]": filled(selector, values)})
            values[variable] = "|".join(map(re.escape, found))
            if not found:
                problems.append(f"{name}: variable {variable} has no value")
        for query in panel_queries(name, board):
            if unseen & query.selectors.keys():
                print(f"not asked, its metric comes from an operator whose broker runs: {query.where}")
            elif prometheus.answers(filled(query.expression, values)):
                answered += 1
            else:
                problems.append(f"{query.where}: no answer to {filled(query.expression, values)}")
    alerts = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    problems += [f"alert {rule['name']}: {rule['lastError']}" for rule in alerts if rule["health"] != "ok"]
    problems += [f"alert {name} is not pending or firing" for name in sorted(firing - {rule["name"] for rule in alerts if rule["alerts"]})]
    for problem in problems:
        print(problem)
    print(f"Prometheus: {answered} panels' queries answered, {len(alerts)} alerts evaluated, {len(firing)} provoked, {len(problems)} problems")
    return not problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check")
    commands.add_parser("rules")
    command = commands.add_parser("ask")
    command.add_argument("url")
    command.add_argument("--unseen", action="append", default=[])
    command.add_argument("--firing", action="append", default=[])
    chosen = parser.parse_args()
    did = {"check": check, "rules": rules, "ask": lambda: ask(chosen.url, set(chosen.unseen), set(chosen.firing))}[chosen.command]()
    sys.exit(0 if did else 1)
