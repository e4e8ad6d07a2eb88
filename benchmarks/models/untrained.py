"""The benchmark's models with weights drawn at random: for figures that don't depend on them, such as memory."""

from dataclasses import replace

import conv1d as conv1d_file
import lstm as lstm_file
import minilm
import resnet18
import sentiment
import torch
import unet as unet_file
import vit as vit_file

resnet18_64 = replace(resnet18.px64, model=resnet18.BUILD)
resnet18_64_momentum = replace(
    resnet18_64, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
)
resnet18_224 = replace(resnet18.px224, model=resnet18.BUILD)
conv1d = replace(conv1d_file.workload, model=conv1d_file.BUILD)
unet = replace(unet_file.workload, model=unet_file.BUILD)
vit = replace(vit_file.workload, model=vit_file.BUILD)
lstm = replace(lstm_file.workload, model=lstm_file.BUILD)
minilm_64 = replace(minilm.length64, model=sentiment.SentimentNet)
minilm_128 = replace(minilm.length128, model=sentiment.SentimentNet)
