"""Images in Zarr stores: OME-Zarr (NGFF 0.4 and 0.5) with the levels of a pyramid, and plain arrays.

A store is a folder. Its chunks are read and written one by one, so that memory does not grow with the image.
"""

from .describe import describe as describe
from .reading import read as read
from .reading import read_header as read_header
from .reading import read_streaming as read_streaming
from .writing import check_encoding as check_encoding
from .writing import check_target as check_target
from .writing import is_target as is_target
from .writing import write as write
