"""diffusers without what it brings along: what is put off, and that it is there when somebody uses it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.commands import ENVIRONMENT

#: Modules that take seconds to import, and that none of our networks uses.
PUT_OFF = ("sympy", "torch._dynamo", "transformers", "scipy.interpolate", "diffusers.models.unets.unet_1d")
USED_AFTERWARDS = """
from transformers import CLIPTextModel
import diffusers.loaders.lora_base, diffusers.loaders.single_file_utils, diffusers.models.unets
import diffusers.schedulers.scheduling_deis_multistep as schedulers
import torch._dynamo
assert issubclass(CLIPTextModel, diffusers.loaders.lora_base.PreTrainedModel)
assert not isinstance(3, diffusers.loaders.lora_base.PreTrainedModel)
assert diffusers.loaders.single_file_utils.AutoImageProcessor.from_pretrained.__name__ == "from_pretrained"
assert schedulers.scipy.stats.beta.name == "beta"
assert diffusers.models.unets.UNet1DModel is diffusers.UNet1DModel
assert diffusers.models.unets.UNet2DConditionModel is diffusers.UNet2DConditionModel
assert callable(torch._dynamo.optimize)
"""


def test_what_no_network_needs_is_imported_by_who_uses_it() -> None:
    script = f"""
import json, sys
from pipeline.backbone.image.family import IMAGE
IMAGE.builder()
print(json.dumps([name for name in {PUT_OFF} if name in sys.modules]))
{USED_AFTERWARDS}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.slow
def test_another_version_of_diffusers_is_imported_in_its_own_way() -> None:
    script = """
import sys
import pipeline.backbone.image.light_import as light
light._Unmarked.disable = None
light.import_networks()
assert "diffusers" not in sys.modules
from pipeline.backbone.image.build import BUILDER
import torch._dynamo, transformers
assert torch._dynamo.__file__ and transformers.__file__
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
