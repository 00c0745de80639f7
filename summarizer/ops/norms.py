"""Stand-in until the merge."""
from torch import nn
import torch.nn.functional as F
from summarizer.ops import between, kernel_graph
from summarizer.ops.rms_norm import RMSNorm as Old
def layer_norm(x, weight, bias, epsilon):
    if kernel_graph.is_recording():
        return between.layer_norm(x, weight, bias, epsilon)
    return F.layer_norm(x, weight.shape, weight, bias, epsilon)
class RMSNorm(Old):
    def forward(self, x):
        if kernel_graph.is_recording():
            return between.rms_norm(x.reshape(-1, x.shape[-1]), self.weight, self.epsilon).reshape(x.shape)
        return super().forward(x)
