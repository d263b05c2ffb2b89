"""The one door for files from outside, and the one writer of folders, which knows what it wrote."""

from .parquet import ParquetVectors, read_parquet
from .reading import construct, parse_yaml, read_json, read_json_lines, read_tensors, read_yaml
from .signature import is_unchanged, signed, signed_card
from .writing import OutputFolder, check_output, disk_explained, mode_of, output_folder, sha256_of


__all__ = [
    "OutputFolder",
    "ParquetVectors",
    "check_output",
    "construct",
    "disk_explained",
    "is_unchanged",
    "mode_of",
    "output_folder",
    "parse_yaml",
    "read_json",
    "read_json_lines",
    "read_parquet",
    "read_tensors",
    "read_yaml",
    "sha256_of",
    "signed",
    "signed_card",
]
