// SPDX-License-Identifier: Apache-2.0
//
// Plays TensorRT's part: takes a plugin of a library through its whole life, as TensorRT's documentation describes it.
//
//   keygraph_trt_harness LIBRARY host|device CASE
//
// CASE is a text file, one entry per line:
//   op KeyGraphAttention                     the creator's name
//   node layers.3/attention                  the node's name, to the end of the line
//   field scale kFLOAT32 0.5                 an attribute; kFLOAT32, kINT32 or kCHAR
//   input float16 2,1,33,8 q.bin             a tensor: type, sizes, file; in the operator's order
//   output float16 2,1,33,8 out.bin          written, when the plugin computes it
//   tactic 3                                 what the engine says at run time; without it, the default (0)
//   offset 4                                 bytes from an aligned address to every tensor of the storage type
// Everything that the plugin answers goes to stdout, `key<TAB>value`; the tests judge it. Exit status 1 is for a plugin
// that breaks TensorRT's rules in a way that ends the play, 2 for a bad case.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "memory.h"

namespace {

using namespace nvinfer1;

void say(const std::string& key, const std::string& value) { std::cout << key << '\t' << value << std::endl; }
void say(const std::string& key, int64_t value) { say(key, std::to_string(value)); }

// The play cannot go on.
struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- the case ----

const std::map<std::string, std::pair<DataType, size_t>> kTypes = {
    {"float32", {DataType::kFLOAT, 4}}, {"float16", {DataType::kHALF, 2}}, {"bfloat16", {DataType::kBF16, 2}},
    {"int32", {DataType::kINT32, 4}},   {"int64", {DataType::kINT64, 8}},
    {"bool", {DataType::kBOOL, 1}},
};

std::string name_of(DataType type) {
  for (const auto& [name, entry] : kTypes)
    if (entry.first == type) return name;
  return "type " + std::to_string(static_cast<int32_t>(type));
}

struct Tensor {
  DataType type;
  Dims dims{};
  std::string file;
  size_t bytes = 0;
  void* data = nullptr;
};

// A field and what it points to, which goes away when this does, as an ONNX parser's does.
struct Field {
  std::string name;
  PluginFieldType type;
  int32_t length;
  std::vector<char> data;
};

struct Case {
  std::string op, node;
  std::deque<Field> fields;
  std::vector<Tensor> inputs;
  Tensor output;
  int32_t tactic = 0;
  size_t offset = 0;
};

Tensor read_tensor(std::istream& line) {
  std::string type, sizes, size;
  Tensor tensor;
  line >> type >> sizes >> tensor.file;
  tensor.type = kTypes.at(type).first;
  tensor.bytes = kTypes.at(type).second;
  for (std::istringstream all(sizes); std::getline(all, size, ',');) {
    tensor.dims.d[tensor.dims.nbDims++] = std::stoll(size);
    tensor.bytes *= std::stoll(size);
  }
  return tensor;
}

template <class Number>
std::vector<char> bytes_of(Number value) {
  const char* begin = reinterpret_cast<const char*>(&value);
  return {begin, begin + sizeof value};
}

Field read_field(std::istream& line) {
  std::string name, type, value;
  line >> name >> type >> value;
  if (type == "kFLOAT32") return {name, PluginFieldType::kFLOAT32, 1, bytes_of(std::stof(value))};
  if (type == "kINT32") return {name, PluginFieldType::kINT32, 1, bytes_of<int32_t>(std::stoi(value))};
  if (type == "kCHAR")
    return {name,
            PluginFieldType::kCHAR,
            static_cast<int32_t>(value.size() + 1),
            {value.c_str(), value.c_str() + value.size() + 1}};
  throw std::invalid_argument("field of type " + type);
}

Case read_case(const std::string& path) {
  Case play;
  std::ifstream file(path);
  for (std::string entry; std::getline(file, entry);) {
    std::istringstream line(entry);
    std::string key;
    line >> key >> std::ws;
    if (key == "op")
      line >> play.op;
    else if (key == "node")
      std::getline(line, play.node);
    else if (key == "field")
      play.fields.push_back(read_field(line));
    else if (key == "input")
      play.inputs.push_back(read_tensor(line));
    else if (key == "output")
      play.output = read_tensor(line);
    else if (key == "tactic")
      line >> play.tactic;
    else if (key == "offset")
      line >> play.offset;
    else
      throw std::invalid_argument("entry " + entry);
  }
  return play;
}

// ---- TensorRT's objects ----

struct Logger final : ILogger {
  void log(Severity severity, const char* message) noexcept override {
    static const char* const names[] = {"internal", "error", "warning", "info", "verbose"};
    say("log", std::string(names[static_cast<int32_t>(severity)]) + ": " + message);
  }
};

struct Finder final : ILoggerFinder {
  ILogger* findLogger() override { return logger; }
  ILogger* logger = nullptr;
};

struct Context final : IPluginResourceContext {
  IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

// A size with its value and where it comes from. The interface's functions are not virtual: they call mImpl.
class Size final : public IDimensionExpr, apiv::VDimensionExpr {
 public:
  Size(std::string text, int64_t value, bool constant) : text(std::move(text)), value(value), constant_(constant) {
    mImpl = this;
  }
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override { return value; }
  bool isSizeTensor() const override { return false; }

  const std::string text;
  const int64_t value;

 private:
  bool constant_;
};

class Sizes final : public IExprBuilder, apiv::VExprBuilder {
 public:
  Sizes() { mImpl = this; }

  const Size* add(const std::string& text, int64_t value, bool constant) {
    all_.push_back(std::make_unique<Size>(text, value, constant));
    return all_.back().get();
  }
  const IDimensionExpr* constant(int64_t value) override { return add(std::to_string(value), value, true); }
  const IDimensionExpr* operation(DimensionOperation operation, const IDimensionExpr& first,
                                  const IDimensionExpr& second) override {
    const auto &a = static_cast<const Size&>(first), &b = static_cast<const Size&>(second);
    const auto both = [&](const char* name, int64_t value) {
      return add(std::string(name) + "(" + a.text + "," + b.text + ")", value,
                 first.isConstant() && second.isConstant());
    };
    switch (operation) {
      case DimensionOperation::kSUM:
        return both("sum", a.value + b.value);
      case DimensionOperation::kPROD:
        return both("prod", a.value * b.value);
      case DimensionOperation::kSUB:
        return both("sub", a.value - b.value);
      case DimensionOperation::kFLOOR_DIV:
        return both("floor_div", a.value / b.value);
      case DimensionOperation::kCEIL_DIV:
        return both("ceil_div", (a.value + b.value - 1) / b.value);
      default:
        return nullptr;
    }
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }

 private:
  std::vector<std::unique_ptr<Size>> all_;
};

template <class Capability>
Capability* capability(IPluginV3& plugin, PluginCapabilityType type, const char* kind) {
  IPluginCapability* found = plugin.getCapabilityInterface(type);
  if (!found) throw Broken(std::string("no capability ") + kind);
  if (std::strcmp(found->getInterfaceInfo().kind, kind) != 0) throw Broken(std::string("not a capability ") + kind);
  return static_cast<Capability*>(found);
}

IPluginV3OneBuild* build_of(IPluginV3& plugin) {
  return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD");
}

IPluginV3OneRuntime* runtime_of(IPluginV3& plugin) {
  return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME, "PLUGIN_V3ONE_RUNTIME");
}

// ---- the build phase ----

std::unique_ptr<IPluginV3> create(IPluginCreatorV3One& creator, const std::string& name,
                                  const std::deque<Field>& fields, TensorRTPhase phase) {
  std::vector<PluginField> views;
  for (const Field& field : fields) views.emplace_back(field.name.c_str(), field.data.data(), field.type, field.length);
  PluginFieldCollection collection{};
  collection.nbFields = static_cast<int32_t>(views.size());
  collection.fields = views.data();
  return std::unique_ptr<IPluginV3>(creator.createPlugin(name.c_str(), &collection, phase));
}

void ask_output(IPluginV3OneBuild& build, const Case& play) {
  const auto count = static_cast<int32_t>(play.inputs.size());
  std::vector<DataType> types;
  for (const Tensor& input : play.inputs) types.push_back(input.type);
  DataType type{};
  say("outputs", build.getNbOutputs());
  say("output type status", build.getOutputDataTypes(&type, 1, types.data(), count));
  say("output type", name_of(type));

  for (const bool constant : {true, false}) {
    Sizes sizes;
    std::vector<DimsExprs> inputs(count);
    for (int32_t i = 0; i < count; ++i) {
      const Dims& dims = play.inputs[i].dims;
      inputs[i].nbDims = dims.nbDims;
      for (int32_t j = 0; j < dims.nbDims; ++j)
        inputs[i].d[j] = sizes.add(std::to_string(i) + "." + std::to_string(j), dims.d[j], constant);
    }
    DimsExprs output{};
    const int32_t status = build.getOutputShapes(inputs.data(), count, nullptr, 0, &output, 1, sizes);
    say("output shape status", status);
    if (status && !constant) throw Broken("no output shape");
    if (status) continue;  // dimensions that are known do not fit: configurePlugin must refuse them too
    std::string from, values;
    for (int32_t i = 0; i < output.nbDims; ++i) {
      const auto* size = static_cast<const Size*>(output.d[i]);
      if (constant && !size->isConstant()) throw Broken("a size that is known is not constant");
      from += (i ? " " : "") + size->text;
      values += (i ? "," : "") + std::to_string(size->value);
    }
    if (!constant) say("output shape", from);
    say("output sizes", values);
  }
}

// All combinations that the plugin takes, as TensorRT finds them: tensor after tensor, the later ones not yet valid.
void find_formats(IPluginV3OneBuild& build, std::vector<DynamicPluginTensorDesc>& tensors, int32_t next,
                  std::vector<std::vector<PluginTensorDesc>>& found) {
  const auto count = static_cast<int32_t>(tensors.size());
  if (next == count) {
    if (static_cast<int32_t>(found.size()) == build.kDEFAULT_FORMAT_COMBINATION_LIMIT) throw Broken("too many formats");
    found.emplace_back();
    for (const DynamicPluginTensorDesc& tensor : tensors) found.back().push_back(tensor.desc);
    return;
  }
  for (int32_t type = 0; type < 12; ++type)
    for (int32_t format = 0; format < 13; ++format) {
      PluginTensorDesc& desc = tensors[next].desc;
      desc.type = static_cast<DataType>(type);
      desc.format = static_cast<TensorFormat>(format);
      if (build.supportsFormatCombination(next, tensors.data(), count - 1, 1))
        find_formats(build, tensors, next + 1, found);
    }
  tensors[next].desc.type = static_cast<DataType>(-1);
  tensors[next].desc.format = static_cast<TensorFormat>(-1);
}

// The tensors as in a network with a dynamic first size; its profile is from 1 to twice the case's.
std::vector<DynamicPluginTensorDesc> profile(const Case& play) {
  std::vector<Tensor> all = play.inputs;
  all.push_back(play.output);
  std::vector<DynamicPluginTensorDesc> tensors(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const bool windows = all[i].dims.nbDims > 1 && i != 4;  // k and a bias have no windows
    DynamicPluginTensorDesc& tensor = tensors[i];
    tensor.desc.type = static_cast<DataType>(-1);
    tensor.desc.format = static_cast<TensorFormat>(-1);
    tensor.desc.scale = 0;
    tensor.desc.dims = tensor.min = tensor.opt = tensor.max = all[i].dims;
    if (!windows) continue;
    tensor.desc.dims.d[0] = -1;
    tensor.min.d[0] = 1;
    tensor.max.d[0] *= 2;
  }
  return tensors;
}

std::vector<int32_t> configure(IPluginV3OneBuild& build, const Case& play) {
  std::vector<DynamicPluginTensorDesc> tensors = profile(play);
  std::vector<std::vector<PluginTensorDesc>> formats;
  find_formats(build, tensors, 0, formats);
  const std::vector<PluginTensorDesc>* chosen = nullptr;
  for (const auto& format : formats) {
    std::string types;
    bool same = format.back().type == play.output.type;
    for (size_t i = 0; i < format.size(); ++i) {
      types += (i ? " " : "") + name_of(format[i].type);
      if (format[i].format != TensorFormat::kLINEAR) types += " (not linear)";
      if (i < play.inputs.size()) same = same && format[i].type == play.inputs[i].type;
    }
    say("format", types);
    if (same) chosen = &format;
  }
  say("format limit", build.getFormatCombinationLimit());
  if (!chosen) throw Broken("no format for the case's types");
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].desc.type = (*chosen)[i].type;
    tensors[i].desc.format = (*chosen)[i].format;
  }
  const auto inputs = static_cast<int32_t>(play.inputs.size());
  const int32_t status = build.configurePlugin(tensors.data(), inputs, &tensors[inputs], 1);
  say("configure status", status);
  if (status) throw Broken("not configured");
  say("workspace", static_cast<int64_t>(build.getWorkspaceSize(tensors.data(), inputs, &tensors[inputs], 1)));
  std::vector<int32_t> tactics(build.getNbTactics());
  say("tactics status", build.getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size())));
  for (const int32_t tactic : tactics) say("tactic", tactic);
  const char* id = build.getTimingCacheID();
  say("timing cache id", id ? id : "(none)");
  const char* metadata = build.getMetadataString();
  say("metadata", metadata ? metadata : "(none)");
  return tactics;
}

// ---- running ----

PluginTensorDesc desc_of(const Tensor& tensor) {
  PluginTensorDesc desc{};
  desc.dims = tensor.dims;
  desc.type = tensor.type;
  desc.format = TensorFormat::kLINEAR;
  return desc;
}

class Runner {
 public:
  Runner(Case& play, Memory& memory) : play_(play), memory_(memory) {
    for (Tensor& input : play_.inputs) {
      std::vector<char> bytes(input.bytes);
      std::ifstream(input.file, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      place(input);
      memory_.write(input.data, bytes);
    }
    place(play_.output);
  }

  int32_t prepare(IPluginV3OneRuntime& runtime) {
    std::vector<PluginTensorDesc> inputs = descs();
    const PluginTensorDesc output = desc_of(play_.output);
    return runtime.onShapeChange(inputs.data(), static_cast<int32_t>(inputs.size()), &output, 1);
  }

  int32_t enqueue(IPluginV3OneRuntime& runtime) {
    std::vector<PluginTensorDesc> inputs = descs();
    const PluginTensorDesc output = desc_of(play_.output);
    std::vector<const void*> data;
    for (const Tensor& input : play_.inputs) data.push_back(input.data);
    return runtime.enqueue(inputs.data(), &output, data.data(), &play_.output.data, nullptr,
                           static_cast<cudaStream_t>(memory_.stream()));
  }

  // Spoils the output first, so that what is written after is what was computed.
  void spoil() { memory_.write(play_.output.data, std::vector<char>(play_.output.bytes, '\x7b')); }

  void write(const std::string& file) {
    memory_.finish();
    std::vector<char> bytes(play_.output.bytes);
    memory_.read(play_.output.data, bytes);
    std::ofstream(file, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

 private:
  std::vector<PluginTensorDesc> descs() const {
    std::vector<PluginTensorDesc> all;
    for (const Tensor& input : play_.inputs) all.push_back(desc_of(input));
    return all;
  }

  void place(Tensor& tensor) {
    const size_t offset = tensor.type == play_.inputs[0].type ? play_.offset : 0;
    tensor.data = static_cast<char*>(memory_.allocate(tensor.bytes + offset)) + offset;
  }

  Case& play_;
  Memory& memory_;
};

// What a library of the tests' making tells of itself.
class Witness {
 public:
  explicit Witness(void* library)
      : launched_(reinterpret_cast<Count>(dlsym(library, "keygraph_test_launched"))),
        loads_(reinterpret_cast<Count>(dlsym(library, "keygraph_test_loads"))) {}

  int32_t loads() const { return loads_ ? loads_() : 0; }

  // The variant of the last launch, and how many kernels it had to load, which must not happen while a graph is captured.
  void say_launch(int32_t loads_before) const {
    if (!launched_) return;
    say("launched", launched_());
    say("loads of a launch", loads() - loads_before);
  }

 private:
  using Count = int32_t (*)();
  Count launched_, loads_;
};

std::deque<Field> serialize(IPluginV3OneRuntime& runtime) {
  const PluginFieldCollection* fields = runtime.getFieldsToSerialize();
  if (!fields) throw Broken("nothing to serialize");
  std::deque<Field> copies;
  for (int32_t i = 0; i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    const bool text = field.type == PluginFieldType::kCHAR;
    const char* data = static_cast<const char*>(field.data);
    copies.push_back({field.name, field.type, field.length, {data, data + field.length * (text ? 1 : 4)}});
    say("serialized", field.name);
  }
  return copies;
}

void play_all(Case& play, IPluginCreatorV3One& creator, Memory& memory, const Witness& witness) {
  std::unique_ptr<IPluginV3> plugin = create(creator, play.node, play.fields, TensorRTPhase::kBUILD);
  play.fields.clear();  // the parser's memory is gone
  say("created", plugin ? "yes" : "no");
  if (!plugin) return;
  plugin.reset(plugin->clone());  // a network keeps a clone
  if (!plugin) throw Broken("no clone");
  const auto* core = capability<IPluginV3OneCore>(*plugin, PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE");
  say("core", std::string(core->getPluginNamespace()) + "::" + core->getPluginName() + ":" + core->getPluginVersion());
  if (plugin->getCapabilityInterface(static_cast<PluginCapabilityType>(99))) throw Broken("a capability 99");

  ask_output(*build_of(*plugin), play);
  const std::vector<int32_t> tactics = configure(*build_of(*plugin), play);

  // The builder times every tactic, or the default where there is none.
  Runner runner(play, memory);
  for (const int32_t tactic : tactics.empty() ? std::vector<int32_t>{0} : tactics) {
    std::unique_ptr<IPluginV3> timed(plugin->clone());
    IPluginV3OneRuntime& runtime = *runtime_of(*timed);
    say("build set tactic status", runtime.setTactic(tactic));
    say("build shape status", runner.prepare(runtime));
    runner.spoil();
    const int32_t loads = witness.loads();
    const int32_t status = runner.enqueue(runtime);
    say("build enqueue status", status);
    if (status) continue;
    witness.say_launch(loads);
    runner.write(play.output.file + "." + std::to_string(tactic));
  }

  std::deque<Field> engine = serialize(*runtime_of(*plugin));
  plugin.reset();
  plugin = create(creator, "deserialized", engine, TensorRTPhase::kRUNTIME);
  engine.clear();
  if (!plugin) throw Broken("not deserialized");
  Context context;
  runtime_of(*plugin)->setTactic(play.tactic);
  std::unique_ptr<IPluginV3> attached(runtime_of(*plugin)->attachToContext(&context));
  if (!attached) throw Broken("not attached");
  plugin.reset();  // attached lives on its own
  IPluginV3OneRuntime& runtime = *runtime_of(*attached);
  say("set tactic status", runtime.setTactic(play.tactic));
  say("early enqueue status", runner.enqueue(runtime));
  say("shape status", runner.prepare(runtime));
  runner.spoil();
  const int32_t loads = witness.loads();
  const int32_t status = runner.enqueue(runtime);
  say("enqueue status", status);
  if (status) return;
  witness.say_launch(loads);
  runner.write(play.output.file);

  runner.spoil();
  int32_t captured = 0;
  if (memory.replay([&] { captured = runner.enqueue(runtime); })) {
    say("captured enqueue status", captured);
    runner.write(play.output.file + ".replayed");
  }
}

void run(const std::string& path, bool device, Case& play) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::invalid_argument(dlerror());
  const auto set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
  const auto get_creators =
      reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
  if (!set_finder || !get_creators) throw Broken("not a plugin library");
  Logger logger;
  Finder finder;
  finder.logger = &logger;
  set_finder(&finder);

  int32_t count = 0;
  IPluginCreatorInterface* const* creators = get_creators(count);
  IPluginCreatorV3One* wanted = nullptr;
  for (int32_t i = 0; i < count; ++i) {
    if (std::strcmp(creators[i]->getInterfaceInfo().kind, "PLUGIN CREATOR_V3ONE") != 0)
      throw Broken("not a V3 creator");
    auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
    const std::string name = creator->getPluginName();
    std::string fields;
    for (int32_t j = 0; j < creator->getFieldNames()->nbFields; ++j)
      fields += std::string(" ") + creator->getFieldNames()->fields[j].name;
    say("creator",
        std::string(creator->getPluginNamespace()) + "::" + name + ":" + creator->getPluginVersion() + fields);
    if (name == play.op) wanted = creator;
  }
  if (!wanted) throw Broken("no creator for " + play.op);

  std::unique_ptr<Memory> memory;
  if (device) {
    std::string reason;
    memory = device_memory(reason);
    say("device", memory ? "yes" : "none: " + reason);
  }
  if (!memory) memory = host_memory();  // without a device nothing looks at it
  play_all(play, *wanted, *memory, Witness(library));

  // A driver of the tests' making says what it was asked.
  if (void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD))
    if (const auto asked = reinterpret_cast<const char* (*)()>(dlsym(driver, "fake_log"))) {
      std::istringstream lines(asked());
      for (std::string line; std::getline(lines, line);) say("driver", line);
    }

  // Deserialized without a logger, an error must not bring the process down.
  set_finder(nullptr);
  if (create(*wanted, "no logger", {}, TensorRTPhase::kRUNTIME)) throw Broken("made from an engine that holds nothing");
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count != 4) throw std::invalid_argument("usage: keygraph_trt_harness LIBRARY host|device CASE");
    Case play = read_case(arguments[3]);
    run(arguments[1], std::string(arguments[2]) == "device", play);
    say("end", "yes");
    return 0;
  } catch (const Broken& broken) {
    say("broken", broken.what());
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 2;
  }
}
