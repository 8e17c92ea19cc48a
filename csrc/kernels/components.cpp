#include "kernels/components.h"

#include <numeric>

namespace bertft {

std::vector<Component> components(const Moments& moments) {
  std::vector<int> root(moments.sides.size());
  std::iota(root.begin(), root.end(), 0);
  const auto find = [&](int side) {
    while (root[side] != side) side = root[side];
    return side;
  };
  for (const auto& [a, b] : moments.pairs) root[find(b)] = find(a);

  std::vector<Component> parts(root.size());
  std::vector<int> place(root.size());
  for (int side = 0; side < static_cast<int>(root.size()); ++side) {
    parts[find(side)].sides.push_back(side);
    Moments& part = parts[find(side)].moments;
    place[side] = static_cast<int>(part.sides.size());
    part.sides.push_back(moments.sides[side]);
    part.norms.push_back(moments.norms[side]);
    part.maps.resize(moments.maps.size());
    for (std::size_t map = 0; map < moments.maps.size(); ++map) {
      part.maps[map].row_map = moments.maps[map].row_map;
      part.maps[map].origins.push_back(moments.maps[map].origins[side]);
      part.maps[map].totals.push_back(moments.maps[map].totals[side]);
      part.maps[map].squares.push_back(moments.maps[map].squares[side]);
    }
  }
  for (std::size_t pair = 0; pair < moments.pairs.size(); ++pair) {
    const auto [a, b] = moments.pairs[pair];
    Moments& part = parts[find(a)].moments;
    part.pairs.emplace_back(place[a], place[b]);
    part.distances.push_back(moments.distances[pair]);
    for (std::size_t map = 0; map < moments.maps.size(); ++map) {
      part.maps[map].crosses.push_back(moments.maps[map].crosses[pair]);
    }
  }
  std::erase_if(parts, [](const Component& part) { return part.sides.empty(); });
  return parts;
}

}  // namespace bertft
