// SPDX-License-Identifier: Apache-2.0
//
// Restores images that it reads from the standard input, for the tests: restore_stream.py describes the format.
#include <cstdio>
#include <iostream>
#include <keygraph/runtime.hpp>
#include <sstream>

namespace {

std::string line() {
  std::string text;
  std::getline(std::cin, text);
  return text;
}

template <class T>
keygraph::Samples samples(std::size_t count) {
  std::vector<T> values(count);
  std::cin.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  return values;
}

// "type height width channels samples", and the samples in the next bytes.
keygraph::Image read_image(std::istringstream words) {
  std::string type;
  std::size_t count = 0;
  keygraph::Image image;
  words >> type >> image.height >> image.width >> image.channels >> count;
  if (type == "uint8") image.samples = samples<std::uint8_t>(count);
  if (type == "uint16") image.samples = samples<std::uint16_t>(count);
  if (type == "float32") image.samples = samples<float>(count);
  return image;
}

void write_image(const keygraph::Image& image) {
  constexpr const char* kTypes[] = {"uint8", "uint16", "float32"};
  std::cout << kTypes[image.samples.index()] << ' ' << image.height << ' ' << image.width << ' ' << image.channels
            << '\n';
  std::visit(
      [](const auto& values) {
        std::cout.write(reinterpret_cast<const char*>(values.data()),
                        static_cast<std::streamsize>(values.size() * sizeof values[0]));
      },
      image.samples);
}

void restore_one(const keygraph::Restorer& restorer, const std::string& options_line) {
  keygraph::RestoreOptions options;
  std::istringstream words(options_line);
  std::string name, value;
  std::size_t inputs = 0;
  while (words >> name >> value) {
    if (name == "k") options.k = std::stoll(value);
    if (name == "tile") options.tile = value == "none" ? keygraph::kWholeImage : std::stoll(value);
    if (name == "overlap") options.overlap = std::stoll(value);
    if (name == "batch") options.batch = std::stoll(value);
    if (name == "inputs") inputs = std::stoul(value);
  }
  const keygraph::Image image = read_image(std::istringstream(line()));
  for (std::size_t i = 0; i < inputs; i++) {
    const std::string input = line();
    options.inputs[input] = read_image(std::istringstream(line()));
  }
  std::int64_t reported = 0;
  options.progress = [&](std::int64_t done, std::int64_t all) { reported = done == all ? all : reported; };
  try {
    const keygraph::Restored restored = restorer.restore(image, options);
    std::cout << "restored " << restored.k.value_or(0) << ' ' << restored.tiles << ' ' << restored.tile_height << ' '
              << restored.tile_width << ' ' << restored.overlap << ' ' << restored.batch << ' ' << restored.padded
              << ' ' << reported << ' ' << restored.notices.size() << '\n';
    for (const std::string& notice : restored.notices) std::cout << notice << '\n';
    write_image(restored.image);
  } catch (const keygraph::InputError& error) {
    std::cout << "input error " << error.what() << '\n';
  } catch (const keygraph::Error& error) {
    std::cout << "error " << error.what() << '\n';
  }
  std::cout << std::flush;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) return 3;
  keygraph::ModelOptions options;
  options.operators = arguments[2];
  if (options.operators == "none") options.operators = std::nullopt;
  options.onnxruntime = arguments[3];
  options.threads = std::stoi(arguments[4]);
  try {
    const keygraph::Restorer restorer(arguments[1], options);
    std::cout << restorer.description() << '\n' << restorer.notices().size() << '\n';
    for (const std::string& notice : restorer.notices()) std::cout << notice << '\n';
    std::cout << std::flush;
    for (std::string next = line(); std::cin; next = line()) restore_one(restorer, next);
  } catch (const keygraph::InputError& error) {
    std::cout << "input error " << error.what() << std::endl;
    return 2;
  } catch (const keygraph::Error& error) {
    std::cout << "error " << error.what() << std::endl;
    return 1;
  }
  return 0;
}
