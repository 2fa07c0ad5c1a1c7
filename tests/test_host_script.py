"""scripts/host.py: what it decides, checks and links, without installing anything."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

import host
import host_install


def make_archive(path: Path, *members: tuple[str, bytes | None, str]) -> Path:
    """A tar.gz of (name, content, link target); a member with a target is a symbolic link."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content, target in members:
            info = tarfile.TarInfo(name)
            if target:
                info.type = tarfile.SYMTYPE
                info.linkname = target
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text("print('hello')")
    (folder / "comfy" / "sd.py").write_text("x = 1")
    host_install.write_stamp(folder, "key", host_install.files_below(folder))
    return folder


# ---------------------------------------------------------------- noticing damage


def test_whole_installation_is_left_alone(installed):
    assert host_install.damage(installed, "key") is None


def test_files_that_come_with_use_are_no_damage(installed):
    (installed / "comfy" / "__pycache__").mkdir()
    (installed / "comfy" / "__pycache__" / "sd.pyc").write_bytes(b"1")
    assert host_install.damage(installed, "key") is None


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "main.py").unlink(), "main.py is missing"),
        (lambda folder: (folder / "comfy" / "sd.py").write_text(""), "comfy/sd.py was changed"),
        (lambda folder: (folder / host_install.STAMP).unlink(), "not finished"),
        (lambda folder: (folder / host_install.STAMP).write_text('{"key":'), "not finished"),
        (lambda folder: folder.rename(folder.parent / "elsewhere"), "not installed"),
    ],
)
def test_damage_is_noticed(installed, harm, reason):
    harm(installed)
    assert reason in host_install.damage(installed, "key")


def test_other_pins_ask_for_a_new_installation(installed):
    assert "other versions" in host_install.damage(installed, host_install.pins("newer"))
    assert host_install.pins("a") != host_install.pins("b")


def test_venv_whose_python_does_not_run_is_damaged(tmp_path):
    venv = tmp_path / "venv"
    python = host_install.venv_python(venv)
    site = venv / ("Lib/site-packages" if host.WINDOWS else "lib/python3.11/site-packages")
    for folder in (python.parent, site / "torch", site / "torch-2.11.0.dist-info"):
        folder.mkdir(parents=True)
    (site / "torch" / "__init__.py").touch()
    python.write_text("no program")
    python.chmod(0o755)
    entries = host_install.installed_packages(venv)
    assert len(entries) == 3
    host_install.write_stamp(venv, "key", entries)
    assert "does not run" in host_install.venv_damage(venv, "key", (3, 11))
    (site / "torch-2.11.0.dist-info").rmdir()
    assert "dist-info is missing" in host_install.venv_damage(venv, "key", (3, 11))


def fake_installation(monkeypatch, tmp_path) -> list[str]:
    """Replace the four slow steps by ones that only note that they ran."""
    done = []
    monkeypatch.setenv("SEEDSELECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_DIR", raising=False)
    version = sys.version_info[:2]
    monkeypatch.setattr(host_install, "PYTHONS", (version,))

    def create_venv(base, venv):
        done.append("venv")
        venv.mkdir(parents=True)

    def install_source(python, target, key):
        done.append("source")
        target.mkdir(parents=True, exist_ok=True)
        (target / "main.py").touch()
        host_install.write_stamp(target, key, {"main.py": 0})

    monkeypatch.setattr(host_install, "create_venv", create_venv)
    monkeypatch.setattr(host_install, "install_source", install_source)
    monkeypatch.setattr(host_install, "install_packages", lambda *_: done.append("packages"))
    monkeypatch.setattr(host_install, "installed_packages", lambda venv: {})
    monkeypatch.setattr(host_install, "python_version", lambda python: version)
    return done


def test_only_what_is_broken_is_made_again(monkeypatch, tmp_path):
    done = fake_installation(monkeypatch, tmp_path)
    found = host.find_host()
    assert done == ["venv", "source", "packages"] and found.managed
    host.find_host()
    assert len(done) == 3
    (found.comfyui / "main.py").unlink()
    host.find_host()
    assert done[3:] == ["source"]


def test_interrupted_packages_are_not_taken_for_installed(monkeypatch, tmp_path):
    done = fake_installation(monkeypatch, tmp_path)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(host_install, "install_packages", interrupted)
        with pytest.raises(KeyboardInterrupt):
            host.find_host()
    (tmp_path / "cache" / "python{}.{}".format(*sys.version_info[:2])).rmdir()
    done.clear()
    host.find_host()
    assert done == ["venv", "packages"]


# ---------------------------------------------------------------- the archive


def test_tampered_file_is_refused(tmp_path):
    good = tmp_path / "good.tar.gz"
    good.write_bytes(b"as published")
    digest = hashlib.sha256(b"as published").hexdigest()
    host_install.check_sha256(good, digest)
    good.write_bytes(b"as publishes")
    with pytest.raises(host.HostError, match="not the file"):
        host_install.check_sha256(good, digest)


def test_only_the_wanted_folder_is_unpacked(tmp_path):
    archive = make_archive(
        tmp_path / "a.tar.gz",
        ("p/vendor/ComfyUI/main.py", b"main", ""),
        ("p/vendor/ComfyUI/comfy/sd.py", b"sd", ""),
        ("p/setup.py", b"no", ""),
        ("p/vendor/ComfyUI-other/x.py", b"no", ""),
    )
    host_install.extract_folder(archive, "p/vendor/ComfyUI", tmp_path / "out")
    assert host_install.files_below(tmp_path / "out") == {"main.py": 4, "comfy/sd.py": 2}


@pytest.mark.parametrize(
    "member",
    [
        ("p/../../evil.py", b"evil", ""),
        ("p/a/../../../evil.py", b"evil", ""),
        ("p/..\\..\\evil.py", b"evil", ""),
        ("p//evil.py", b"evil", ""),
        ("p/C:/evil.py", b"evil", ""),
        ("p/link", None, "../../somewhere"),
    ],
)
def test_unsafe_entries_are_refused(tmp_path, member):
    archive = make_archive(tmp_path / "a.tar.gz", member)
    with pytest.raises(host.HostError, match="unsafe"):
        host_install.extract_folder(archive, "p", tmp_path / "x" / "y" / "out")
    assert not list(tmp_path.rglob("evil.py"))


# ---------------------------------------------------------------- links


def checkout(folder: Path) -> Path:
    folder.mkdir()
    (folder / "__init__.py").touch()
    return folder


def test_link_is_made_kept_and_moved_to_another_checkout(tmp_path):
    nodes = tmp_path / "base" / "custom_nodes"
    nodes.mkdir(parents=True)
    first = checkout(tmp_path / "first")
    second = checkout(tmp_path / "second")
    link = host.link_pack(nodes, first)
    assert os.path.samefile(link, first)
    assert host.link_pack(nodes, first) == link
    assert os.path.samefile(host.link_pack(nodes, second), second)
    assert [entry.name for entry in nodes.iterdir()] == [host.PACK]
    assert (first / "__init__.py").exists()


def test_link_that_leads_nowhere_is_replaced(tmp_path):
    nodes = tmp_path / "base" / "custom_nodes"
    nodes.mkdir(parents=True)
    gone = checkout(tmp_path / "gone")
    host.link_pack(nodes, gone)
    gone.rename(tmp_path / "moved")
    assert os.path.samefile(host.link_pack(nodes, tmp_path / "moved"), tmp_path / "moved")


def test_real_folder_of_the_same_name_is_not_touched(tmp_path):
    nodes = tmp_path / "custom_nodes"
    (nodes / host.PACK).mkdir(parents=True)
    (nodes / host.PACK / "work.txt").write_text("mine")
    with pytest.raises(host.HostError, match="Move it out"):
        host.link_pack(nodes, checkout(tmp_path / "repo"))
    assert (nodes / host.PACK / "work.txt").read_text() == "mine"


def test_checkout_that_lives_in_custom_nodes_needs_no_link(tmp_path):
    nodes = tmp_path / "custom_nodes"
    nodes.mkdir()
    own = checkout(nodes / "my-seedselect")
    assert host.link_pack(nodes, own) == own
    assert list(nodes.iterdir()) == [own]


# ---------------------------------------------------------------- finding Python and ComfyUI


def test_a_shim_that_fails_is_passed_over(monkeypatch, tmp_path):
    name = "python3.12.exe" if host.WINDOWS else "python3.12"
    shim = tmp_path / "a" / name
    real = tmp_path / "b" / name
    for path in (shim, real):
        path.parent.mkdir()
        path.write_text("no program")
    assert host_install.python_version(shim) is None
    monkeypatch.setattr(host_install.sys, "version_info", (3, 9, 0))
    monkeypatch.setattr(host_install, "python_version", {real: (3, 12)}.get)
    monkeypatch.setenv("PATH", f"{shim.parent}{os.pathsep}{real.parent}")
    assert host_install.find_python() == (real, (3, 12))
    monkeypatch.setenv("PATH", str(shim.parent))
    with pytest.raises(host.HostError, match=r"3\.11 or 3\.12, and was started by Python 3\.9"):
        host_install.find_python()


def test_comfyui_dir_brings_its_own_python(monkeypatch, tmp_path):
    for name in ("SEEDSELECT_PYTHON", "COMFYUI_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(host_install, "require_modules", lambda *_: None)
    folder = tmp_path / "ComfyUI"
    monkeypatch.setenv("COMFYUI_DIR", str(folder))
    with pytest.raises(host.HostError, match="no ComfyUI"):
        host.find_host()
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    assert host.find_host() == host.Host(folder, Path(sys.executable), managed=False)
    own = host_install.venv_python(folder / "venv")
    own.parent.mkdir(parents=True)
    own.touch()
    assert host.find_host().python == own
    monkeypatch.setenv("SEEDSELECT_PYTHON", str(tmp_path / "other"))
    assert host.find_host().python == tmp_path / "other"


def test_missing_module_is_named_with_its_remedy():
    host.require_modules(Path(sys.executable), ["json", "torch"], "pip install it")
    with pytest.raises(host.HostError, match=r"lacks no_such_module\. .* pip install it"):
        host.require_modules(Path(sys.executable), ["json", "no_such_module"], "pip install it")


# ---------------------------------------------------------------- lock, server, verbs


def test_second_installation_waits_for_the_first(tmp_path):
    order = []

    def second():
        with host_install.install_lock(tmp_path):
            order.append("second")

    with host_install.install_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1)
        order.append("first")
    thread.join(timeout=600)
    assert order == ["first", "second"]


def test_lock_of_a_dead_process_does_not_hold(tmp_path):
    scripts = Path(host.__file__).parent
    code = (
        f"import os, sys; sys.path.insert(0, {str(scripts)!r}); import host_install as h\n"
        f"lock = h.install_lock(h.Path({str(tmp_path)!r})); lock.__enter__(); os._exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3
    with host_install.install_lock(tmp_path):
        pass


def test_server_that_cannot_start_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("SEEDSELECT_CACHE", str(tmp_path / "cache"))
    comfyui = tmp_path / "ComfyUI"
    comfyui.mkdir()
    (comfyui / "main.py").write_text("raise SystemExit('the model folder is gone')")
    broken = host.Host(comfyui, Path(sys.executable), managed=False)
    with pytest.raises(host.HostError, match="the model folder is gone"):
        with host.server(["--cpu"], host=broken):
            pass


def test_exit_codes_and_help(monkeypatch, tmp_path, capsys):
    stub = host.Host(tmp_path, Path(sys.executable), managed=False)
    monkeypatch.setattr(host, "find_host", lambda: stub)
    monkeypatch.setattr(host, "REPO", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "demo.py").write_text("import sys; sys.exit(int(sys.argv[1]))")
    (tmp_path / "benchmarks").mkdir()
    code = "import os, sys; sys.exit(os.environ['COMFYUI_DIR'] != sys.argv[1])"
    (tmp_path / "benchmarks" / "speed.py").write_text(code)
    assert host.main(["demo", "7"]) == 7
    assert host.main(["bench", "speed", str(tmp_path)]) == 0
    assert host.main(["bench", "nothing"]) == 1
    assert "speed" in capsys.readouterr().err
    assert host.main(["--help"]) == 0
    assert "SEEDSELECT_CACHE" in capsys.readouterr().out
    assert host.main(["fly"]) == 2


def test_own_comfyui_and_paths_of_the_caller(monkeypatch, tmp_path):
    for name in ("SEEDSELECT_PYTHON", "COMFYUI_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(host_install, "require_modules", lambda *_: None)
    ours = host.Host(tmp_path / "ours", Path(sys.executable), managed=True)
    monkeypatch.setattr(host, "find_host", lambda: ours)
    around = tmp_path / "ComfyUI"
    elsewhere = tmp_path / "elsewhere"
    repo = around / "custom_nodes" / "pack"
    (repo / "scripts").mkdir(parents=True)
    monkeypatch.setattr(host, "REPO", repo)
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['COMFYUI_DIR'])"
    for verb in ("demo", "evaluate"):
        (repo / "scripts" / f"{verb}.py").write_text(code)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def used(verb: str) -> str:
        assert host.main([verb, f"{verb}.txt"]) == 0
        return (elsewhere / f"{verb}.txt").read_text()

    assert used("evaluate") == str(ours.comfyui)  # custom_nodes of no ComfyUI
    (around / "comfy").mkdir()
    (around / "main.py").touch()
    assert used("evaluate") == str(around)
    assert used("demo") == str(ours.comfyui)
    monkeypatch.setenv("COMFYUI_DIR", "chosen")
    assert used("evaluate") == str(ours.comfyui)


def test_a_busy_port_is_not_taken():
    with host.socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        taken = busy.getsockname()[1]
        assert host.free_port(taken) not in (0, taken)
