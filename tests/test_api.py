"""The way through Python, as the README shows it."""

from conftest import golden_case


def test_verify_takes_paths_and_opened_bundles(bundle_of):
    case = golden_case("first")
    bundle = bundle_of(case)
    import eas_export.parity

    assert eas_export.verify(bundle.path, case.folder).verdict == "same as the checkpoint"
    assert eas_export.verify(str(bundle.path)).verdict == "self-consistent"
    opened = eas_export.open_bundle(bundle.path)
    assert eas_export.verify(opened, case.folder, backend="pytorch", steps=2).decode_steps == 2
    assert set(eas_export.open_runtime(opened, "onnxruntime").sessions) == {"vision", "prefill", "fold", "decode"}
