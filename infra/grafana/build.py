"""Prints Grafana's dashboard from panels.yml; nobody edits its JSON by hand:

python infra/grafana/build.py > infra/grafana/dashboards/ragrelay.json
"""

import json
from pathlib import Path
from typing import Any

import yaml

ROWS = yaml.safe_load(Path(__file__).with_name("panels.yml").read_text())
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, WIDTH, HEIGHT = 24, 8, 8

ANNOTATIONS = {
    "Deploys": "time() - process_start_time_seconds{API} < 60",
    "Index swaps": "resets(rag_index_generation_age_seconds{API}[1m]) > 0",
}


def promql(query: str) -> str:
    """Write out the abbreviations of panels.yml."""
    selected = query.replace("{API", '{job="api",instance=~"$instance"')
    return selected.replace("[R]", "[$__rate_interval]")


def variable(name: str, series: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({series}, {name})", "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def panel(spec: dict[str, Any], number: int, x: int, y: int) -> dict[str, Any]:
    stacking = {"stacking": {"mode": "normal"}, "fillOpacity": 30}
    return {
        "id": number,
        "type": spec.get("kind", "timeseries"),
        "title": spec["title"],
        "description": spec["description"],
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": spec.get("width", WIDTH), "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": spec["unit"],
                "custom": stacking if spec.get("stacked") else {},
            },
            "overrides": [],
        },
        "options": {"legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": ref, "datasource": DATASOURCE, "expr": promql(expr), "legendFormat": legend}
            for ref, (legend, expr) in zip("ABCDEFGH", spec["queries"].items(), strict=False)
        ],
    }


def laid_out() -> list[dict[str, Any]]:
    """Return rows and panels, from left to right and top to bottom."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, specs in ROWS.items():
        at = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": at})
        x, y = 0, y + 1
        for spec in specs:
            if x + spec.get("width", WIDTH) > COLUMNS:
                x, y = 0, y + HEIGHT
            panels.append(panel(spec, len(panels) + 1, x, y))
            x += spec.get("width", WIDTH)
        y += HEIGHT
    return panels


def dashboard() -> dict[str, Any]:
    return {
        "uid": "ragrelay",
        "title": "ragrelay",
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("instance", 'up{job="api"}'),
                variable("engine", 'up{job="engine"}'),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": name,
                    "datasource": DATASOURCE,
                    "enable": True,
                    "expr": promql(expr),
                    "step": "30s",
                    "titleFormat": name,
                    "textFormat": "{{instance}}",
                }
                for name, expr in ANNOTATIONS.items()
            ]
        },
        "panels": laid_out(),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
