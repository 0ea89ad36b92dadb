"""Spectral cubes in files: MATLAB ``.mat``, NumPy ``.npy`` and ``.npz``, TIFF with many pages, and ENVI ``.hdr``.

A cube is height x width x bands, with samples of any real type and wavelengths for its bands. Whatever a file cannot
hold is reported: reading and writing return lines to show to the user.
"""

from .carry_over import dropped_fields as dropped_fields
from .carry_over import restored_cube as restored_cube
from .cube import FORMATS as FORMATS
from .cube import VARIABLE as VARIABLE
from .cube import WAVELENGTH_VARIABLES as WAVELENGTH_VARIABLES
from .cube import Cube as Cube
from .cube import Field as Field
from .cube import Header as Header
from .reading import describe_arrays as describe_arrays
from .reading import is_cube as is_cube
from .reading import read as read
from .reading import read_header as read_header
from .wavelengths import nanometres as nanometres
from .writing import check_target as check_target
from .writing import write as write
