"""Write SmolLM2-135M-Instruct as a GGUF of 8-bit blocks (Q8_0): what llama.cpp runs, for the bench beside it.

The weights, the tokenizer and the metadata are those of the file that smollm2_checkpoint.py unpacks.

    python smollm2_gguf.py OUT.gguf          # about 145 MB
"""

import pathlib
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, Keys, dequantize, quantize

from smollm2_checkpoint import unpack_gguf

# What GGUFWriter writes itself, or what is no longer true.
OWN_KEYS = {Keys.General.ARCHITECTURE, Keys.General.FILE_TYPE}


def copy_metadata(reader: GGUFReader, writer: GGUFWriter) -> None:
    for field in reader.fields.values():
        if field.name in OWN_KEYS or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub_kind)


def write_q8_0(source: pathlib.Path, out: pathlib.Path) -> None:
    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.fields[Keys.General.ARCHITECTURE].contents())
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if w.ndim == 1:
            writer.add_tensor(tensor.name, w)
        else:
            writer.add_tensor(tensor.name, quantize(w, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(out: pathlib.Path) -> None:
    """Write into OUT.partial, so that OUT is whole or absent."""
    partial = out.with_name(out.name + ".partial")
    with tempfile.TemporaryDirectory() as work:
        write_q8_0(unpack_gguf(pathlib.Path(work)), partial)
    partial.rename(out)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
