// Restore a PPM file (P6, 8 bits) with a model that keygraph exported: restore MODEL.onnx IN.ppm OUT.ppm
#include <fstream>
#include <iostream>
#include <keygraph/runtime.hpp>

keygraph::Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int white = 0;
  keygraph::Image image;
  image.channels = 3;
  file >> kind >> image.width >> image.height >> white;
  file.get();  // The white space after the header.
  if (!file || kind != "P6" || white != 255) throw keygraph::InputError(path + " is not a PPM file of 8 bits (P6)");
  std::vector<std::uint8_t> samples(static_cast<std::size_t>(image.height * image.width * image.channels));
  if (!file.read(reinterpret_cast<char*>(samples.data()), static_cast<std::streamsize>(samples.size()))) {
    throw keygraph::InputError(path + " is cut off");
  }
  image.samples = std::move(samples);
  return image;
}

void write_ppm(const std::string& path, const keygraph::Image& image) {
  const auto& samples = std::get<std::vector<std::uint8_t>>(image.samples);
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << image.width << ' ' << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(samples.data()), static_cast<std::streamsize>(samples.size()));
  if (!file.flush()) throw keygraph::Error("cannot write " + path);
}

int main(int count, char** arguments) try {
  if (count != 4) throw keygraph::InputError("usage: restore MODEL.onnx IN.ppm OUT.ppm");
  const keygraph::Restorer restorer(arguments[1]);
  const keygraph::Restored restored = restorer.restore(read_ppm(arguments[2]));
  for (const std::string& notice : restored.notices) std::cerr << "note: " << notice << '\n';
  write_ppm(arguments[3], restored.image);
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
