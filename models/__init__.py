"""The networks in PyTorch, and reading their checkpoints.

======================================  ==============================================================================
`kgt`, `restormer`, `mst`,              The networks, a module each: configuration, modules, and the `Architecture` that
`mst_plus_plus`                         describes them.
`architecture`, `registry`,             What a description holds, the registry of them, and those that installed
`installed`                             packages bring.
`channel_attention`, `windows`,         Parts that several networks share.
`heads`, `configuration`
`checkpoint`, `strict_loading`          From a file to a network.
`checkpoint_file`, `shards`,            Reading a file as data, by its content; `pickled` interprets pickles without
`foreign_files`, `pickled`              running code.
`entries`, `averaged`, `unwrap`         The sets of weights in a file, which of them are averages (EMA), and the choice.
`key_map`                               Renaming foreign keys.
`source_file`, `own_weights`            A network that the user's own Python file builds, and its weights.
`enhance`                               Replacing channel attention by GLMHA.
`macs`                                  Counting parameters and multiply-accumulates.
======================================  ==============================================================================
"""

from .architecture import Architecture, Interface
from .checkpoint import LoadedModel, load_checkpoint, save_checkpoint
from .enhance import enhance
from .registry import ARCHITECTURES, register

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Interface",
    "LoadedModel",
    "enhance",
    "load_checkpoint",
    "register",
    "save_checkpoint",
]
