"""Nothing calls home: ONNX Runtime keeps an id and a database of what it would send unless it is told not to."""

import os
import subprocess
import sys

from conftest import golden_case


def test_onnxruntime_leaves_nothing_in_the_users_home(bundle_of, tmp_path):
    script = f"import eas_export; eas_export.open_runtime(eas_export.open_bundle({str(bundle_of(golden_case('all')).path)!r}), 'onnxruntime')"
    settings = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    subprocess.run([sys.executable, "-c", script], check=True, env=settings | {"HOME": str(tmp_path)})
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]
