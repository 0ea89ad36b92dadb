// SPDX-License-Identifier: Apache-2.0
#include "embedded.h"

#include "failure.h"

#if defined(KEYGRAPH_ZLIB)
#include <zlib.h>
#endif

namespace keygraph::cuda {

std::vector<char> code_of(const Target& target, const Image& image) {
  const unsigned char* const stored = target.data + image.offset;
  if (!target.compressed) return {stored, stored + image.bytes};
#if defined(KEYGRAPH_ZLIB)
  std::vector<char> code(image.bytes);
  uLongf bytes = static_cast<uLongf>(code.size());
  if (uncompress(reinterpret_cast<Bytef*>(code.data()), &bytes, stored, static_cast<uLong>(image.stored_bytes)) ==
          Z_OK &&
      bytes == image.bytes)
    return code;
#endif
  throw Failure{KEYGRAPH_NO_KERNEL, "the embedded code of a kernel is damaged"};
}

}  // namespace keygraph::cuda
