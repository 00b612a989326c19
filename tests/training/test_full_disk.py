"""A full disk is one line of error; the run goes on once there is space."""

import errno
import os
import subprocess

import pytest

from secateur.errors import ArtifactError


class TestFullDisk:
    @pytest.mark.parametrize("write", [1, 2, 3, 6, 13])
    def test_at_any_write_leaves_what_was_there(self, fit, repeatable, monkeypatch, tmp_path, write):
        """The n-th writing fails; afterwards, with space again, the run goes on as if nothing had been."""
        fit(out=tmp_path / "whole")
        plain, count = os.fsync, 0

        def full(descriptor):
            nonlocal count
            count += 1
            if count == write:
                raise OSError(errno.ENOSPC, "No space left on device")
            plain(descriptor)

        out = tmp_path / "part"
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ArtifactError, match="No space left on device; free space") as caught:
                fit(out=out)
        assert "\n" not in str(caught.value)
        assert not list(out.glob("*.partial")) + list(out.glob(".*.partial"))
        fit(out=out, resume=True)
        assert repeatable(out) == repeatable(tmp_path / "whole")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    def test_of_a_real_file_system(self, fit, repeatable, tmp_path):
        fit(out=tmp_path / "whole")
        small = tmp_path / "small"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(small)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not allowed here")
        try:
            with pytest.raises(ArtifactError, match="No space left on device") as caught:
                fit(out=small / "run")
            assert "\n" not in str(caught.value)
            assert not list((small / "run").glob(".*.partial"))
            resize = ["mount", "-o", "remount,size=4m", str(small)]
            subprocess.run(resize, check=True)
            fit(out=small / "run", resume=True)
            assert repeatable(small / "run") == repeatable(tmp_path / "whole")
        finally:
            subprocess.run(["umount", str(small)], check=True)
