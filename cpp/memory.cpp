// SPDX-License-Identifier: Apache-2.0
#include "memory.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace keygraph {
namespace {

namespace fs = std::filesystem;

void lower(std::optional<double>& least, const std::optional<double>& value) {
  if (value && (!least || *value < *least)) least = value;
}

// Return the number in a file; nullopt for "max", and where there is no such file.
std::optional<double> number(const fs::path& path) {
  std::ifstream file(path);
  double value = 0;
  return file >> value ? std::optional<double>(value) : std::nullopt;
}

// Return the words and numbers of lines such as "MemAvailable: 12 kB".
std::map<std::string, double> table(const fs::path& path) {
  std::map<std::string, double> found;
  std::ifstream file(path);
  for (std::string line, name; std::getline(file, line);) {
    double value = 0;
    if (std::istringstream(line) >> name >> value) found[name] = value;
  }
  return found;
}

// How one version of control groups reports memory; see runtime/device/control_groups.py.
struct Version {
  const char* mount;
  std::vector<const char*> limits;
  const char* usage;
  std::vector<std::vector<const char*>> cache;  // Of alternative names the first counts.
};

const Version kVersion1{"/sys/fs/cgroup/memory",
                        {"memory.limit_in_bytes"},
                        "memory.usage_in_bytes",
                        {{"total_inactive_file", "inactive_file"}, {"total_active_file", "active_file"}}};
const Version kVersion2{"/sys/fs/cgroup",
                        {"memory.max", "memory.high"},
                        "memory.current",
                        {{"inactive_file"}, {"active_file"}, {"slab_reclaimable"}}};

// Return what a group leaves: its smallest limit less its usage without page cache.
std::optional<double> left_by(const fs::path& folder, const Version& version) {
  std::optional<double> limit;
  for (const char* name : version.limits) lower(limit, number(folder / name));
  const auto used = number(folder / version.usage);
  if (!limit || !used) return std::nullopt;
  const auto entries = table(folder / "memory.stat");
  double cache = 0;
  for (const auto& names : version.cache) {
    for (const char* name : names) {
      const auto entry = entries.find(name);
      if (entry == entries.end()) continue;
      cache += entry->second;
      break;
    }
  }
  return std::max(0.0, *limit - std::max(0.0, *used - cache));
}

// Return the path of the process's group; lines are hierarchy:controllers:path.
std::string group_of(const Version& version) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool found = &version == &kVersion2 ? controllers == ",," : controllers.find(",memory,") != std::string::npos;
    if (found) return line.substr(second + 1);
  }
  return "/";
}

// Return what the group of the process and all groups above it leave. A container sees its own group as the root.
std::optional<double> left_by_groups(const Version& version) {
  std::optional<double> least;
  const fs::path mount = version.mount;
  fs::path folder = mount;
  lower(least, left_by(folder, version));
  for (const fs::path& part : fs::path(group_of(version)).relative_path()) {
    folder /= part;
    lower(least, left_by(folder, version));
  }
  return least;
}

// Return what a limit of the process leaves. The type of its name is the C library's.
template <class Resource>
std::optional<double> left_by_process(Resource resource, double used) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return std::nullopt;
  return std::max(0.0, static_cast<double>(limit.rlim_cur) - used);
}

}  // namespace

std::optional<double> available_memory() {
  std::optional<double> least;
  const auto machine = table("/proc/meminfo");
  if (const auto found = machine.find("MemAvailable:"); found != machine.end()) least = found->second * 1024;
  lower(least, left_by_groups(kVersion1));
  lower(least, left_by_groups(kVersion2));
  const auto process = table("/proc/self/status");
  const auto used = [&](const char* name) {
    const auto found = process.find(name);
    return found == process.end() ? 0.0 : found->second * 1024;
  };
  lower(least, left_by_process(RLIMIT_AS, used("VmSize:")));
  lower(least, left_by_process(RLIMIT_DATA, used("VmData:")));
  return least;
}

}  // namespace keygraph
