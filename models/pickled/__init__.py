"""Read pickles as data: unknown classes become inert records, and nothing that a file names is imported or called.

======================  ==============================================================================================
`machine`               Interprets the opcodes of a pickle.
`policy`                Which globals a pickle may name, and which it may call.
`values`                The records: `Global`, `Stub`, and the log of a file.
`rebuild`, `arrays`     The few calls that give real values: containers, tensors, NumPy arrays.
`archive`               PyTorch's file formats: zip, and the one before version 1.6.
======================  ==============================================================================================

Why not ``torch.load(weights_only=True)`` with more classes allowed? Its list names *real* classes: to allow
``omegaconf.DictConfig`` one has to import it, and then its constructor and its ``__setstate__`` run with arguments from
the file. Subclassing its unpickler would tie this package to private code that changes with every release of PyTorch.
An interpreter of our own needs about 150 lines, because `pickletools` of the standard library decodes the opcodes, and
it has a simpler rule: a call gives a value only if it is one of those in `rebuild`, else a record.
"""
