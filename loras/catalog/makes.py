"""How the pairs of published files are written, as far as that is known: several releases share
each of these.

Rebuilt to the published number of bytes, but for SSD-1B's, LTX-2's and those without a count:
tests/data/real_headers.json.
"""

from __future__ import annotations

from ..accelerator import Make

KOHYA = "lora_unet_*.lora_down"
NATIVE = "diffusion_model.*.lora_down"
PEFT = "transformer.*.lora_A"

# Every convolution and every attention of the UNet, and the time embedding's projections.
SD15 = Make(KOHYA, 278, "F16")
SD15_F32 = Make(KOHYA, 278, "F32")
SDXL = Make(KOHYA, 788, "F16")
SDXL_F32 = Make(KOHYA, 788, "F32")
SSD1B = Make(KOHYA, 423, "F16")
# Every linear layer, the embedders among them.
SD3 = Make(PEFT, 341, "F32")
FLUX_F32 = Make(PEFT, 504, "F32")
FLUX_BF16 = Make(PEFT, 504, "BF16")
# Attention and MLP of the 60 blocks, without their modulation.
QWEN_IMAGE = Make("*.lora_down", 720, "BF16")
QWEN_IMAGE_F32 = Make("*.lora_down", 720, "F32")
# Attention and MLP of Wan's 40 blocks, in Wan2.2-Lightning alone.
WAN_BLOCKS_F32 = Make(NATIVE, 400, "F32")
WAN_BLOCKS_F16 = Make(NATIVE, 400, "F16")
# The same and the embeddings, from an extract of the whole model; of the head a pair, in Kijai's.
WAN_T2V = Make(NATIVE, 405, "BF16")
WAN_I2V = Make(NATIVE, 487, "BF16")
KIJAI_T2V = Make(NATIVE, 406, "BF16")
KIJAI_I2V = Make(NATIVE, 488, "BF16")
# Without a pair for the time projection.
KIJAI_T2V_OLDER = Make(NATIVE, 405, "F16")
KIJAI_1_3B = Make(NATIVE, 306, "F16")
KIJAI_5B = Make(NATIVE, 306, "BF16")
# LightX2V's and Kijai's other files, of which no more than the names of the keys is known.
NATIVE_NAMES = Make(NATIVE)
LTX2 = Make("diffusion_model.*.lora_A", 1370, "BF16")
LTX23 = Make("diffusion_model.*.lora_A", 1660, "BF16")
