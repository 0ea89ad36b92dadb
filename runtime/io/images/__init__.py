"""Pictures in files: PNG, JPEG, TIFF and WebP, with their alpha, colour profile and metadata.

Whatever a file cannot hold is reported: reading and writing return lines to show to the user.
"""

from .formats import FORMATS as FORMATS
from .formats import READ_ONLY as READ_ONLY
from .formats import SLIDES as SLIDES
from .metadata.fields import Metadata as Metadata
from .picture import Header as Header
from .picture import Picture as Picture
from .reading import open_file as open_file
from .reading import read as read
from .reading import read_header as read_header
from .writing import check_encoding as check_encoding
from .writing import check_target as check_target
from .writing import with_pixels as with_pixels
from .writing import write as write
