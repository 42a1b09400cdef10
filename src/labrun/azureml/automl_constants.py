"""The SDK's AutoML constants, which scripts use in place of strings."""

from __future__ import annotations

CONDA_ENV_FILE_PATH = "outputs/conda_env_v_1_0_0.yml"
MODEL_PATH = "outputs/model.pkl"
SCORING_FILE_PATH = "outputs/scoring_file_v_1_0_0.py"
"""Files of each iteration."""


class Metric:
    """Names of the primary metrics and of the other metrics."""

    AUCMacro = "AUC_macro"
    AUCMicro = "AUC_micro"
    AUCWeighted = "AUC_weighted"
    Accuracy = "accuracy"
    AvgPrecisionMacro = "average_precision_score_macro"
    AvgPrecisionMicro = "average_precision_score_micro"
    AvgPrecisionWeighted = "average_precision_score_weighted"
    BalancedAccuracy = "balanced_accuracy"
    F1Macro = "f1_score_macro"
    F1Micro = "f1_score_micro"
    F1Weighted = "f1_score_weighted"
    LogLoss = "log_loss"
    NormMacroRecall = "norm_macro_recall"
    PrecisionMacro = "precision_score_macro"
    PrecisionMicro = "precision_score_micro"
    PrecisionWeighted = "precision_score_weighted"
    RecallMacro = "recall_score_macro"
    RecallMicro = "recall_score_micro"
    RecallWeighted = "recall_score_weighted"
    ExplainedVariance = "explained_variance"
    MAPE = "mean_absolute_percentage_error"
    MeanAbsError = "mean_absolute_error"
    MedianAbsError = "median_absolute_error"
    NormMeanAbsError = "normalized_mean_absolute_error"
    NormMedianAbsError = "normalized_median_absolute_error"
    NormRMSE = "normalized_root_mean_squared_error"
    NormRMSLE = "normalized_root_mean_squared_log_error"
    R2Score = "r2_score"
    RMSE = "root_mean_squared_error"
    RMSLE = "root_mean_squared_log_error"
    Spearman = "spearman_correlation"


class SupportedModels:
    """The models of `allowed_models` and `blocked_models`."""

    class Classification:
        """Models for classification."""

        AveragedPerceptron = "AveragedPerceptronClassifier"
        BernoulliNB = "BernoulliNaiveBayes"
        DecisionTree = "DecisionTree"
        ExtraTrees = "ExtremeRandomTrees"
        GradientBoosting = "GradientBoosting"
        KNearestNeighborsClassifier = "KNN"
        LightGBMClassifier = "LightGBM"
        LinearSupportVectorMachine = "LinearSVM"
        LogisticRegression = "LogisticRegression"
        MultinomialNB = "MultinomialNaiveBayes"
        RandomForest = "RandomForest"
        SGDClassifier = "SGD"
        SupportVectorMachine = "SVM"
        XGBClassifier = "XGBoostClassifier"

    class Regression:
        """Models for regression."""

        DecisionTree = "DecisionTree"
        ElasticNet = "ElasticNet"
        ExtraTrees = "ExtremeRandomTrees"
        FastLinearRegressor = "FastLinearRegressor"
        GradientBoostingRegressor = "GradientBoosting"
        KNearestNeighborsRegressor = "KNN"
        LassoLars = "LassoLars"
        LightGBMRegressor = "LightGBM"
        OnlineGradientDescentRegressor = "OnlineGradientDescentRegressor"
        RandomForestRegressor = "RandomForest"
        SGDRegressor = "SGD"
        XGBRegressor = "XGBoostRegressor"
