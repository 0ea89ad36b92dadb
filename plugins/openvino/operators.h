// SPDX-License-Identifier: Apache-2.0
//
// The operators as operations of OpenVINO, computed on the CPU with OpenVINO's own threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "openvino/op/op.hpp"

namespace keygraph::openvino {

// What all operations do. Errors are ov::Exception, one line that names the node.
class Operation : public ov::op::Op {
 public:
  // The ONNX node's name, by which messages call it; OpenVINO renames nodes after their outputs.
  std::string onnx_name;

  void validate_and_infer_types() final;
  bool has_evaluate() const final { return true; }
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const final;

 protected:
  // Check what is known of the inputs, and return the output's element type and shape. Throws OperatorError.
  struct Result {
    ov::element::Type type;
    ov::PartialShape shape;
  };
  virtual Result infer() const = 0;
  // Check the inputs, give the output its shape and compute it. Throws OperatorError.
  virtual void compute(ov::Tensor& output, const ov::TensorVector& inputs) const = 0;
};

class KeyGraph final : public Operation {
 public:
  OPENVINO_OP("KeyGraph", "keygraph");

  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;

 private:
  Result infer() const override;
  void compute(ov::Tensor& output, const ov::TensorVector& inputs) const override;
};

class PackGraph final : public Operation {
 public:
  OPENVINO_OP("PackGraph", "keygraph");

  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;

 private:
  Result infer() const override;
  void compute(ov::Tensor& output, const ov::TensorVector& inputs) const override;
};

class TopKGraph final : public Operation {
 public:
  OPENVINO_OP("TopKGraph", "keygraph");

  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;

 private:
  Result infer() const override;
  void compute(ov::Tensor& output, const ov::TensorVector& inputs) const override;
};

class KeyGraphAttention final : public Operation {
 public:
  OPENVINO_OP("KeyGraphAttention", "keygraph");

  std::optional<float> scale;
  std::optional<int64_t> heads;  // needed where q, k and v are [B, N, H*D]

  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;

 private:
  Result infer() const override;
  void compute(ov::Tensor& output, const ov::TensorVector& inputs) const override;
};

}  // namespace keygraph::openvino
